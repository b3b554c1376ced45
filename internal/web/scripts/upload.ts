import { say } from "./live";

// What the server has of an upload; see upload.go.
interface Progress {
	id: string;
	claim: string;
	offset: number;
	total: number;
	report?: string;
	problem?: string;
}

const MiB = 1 << 20;
// A piece takes about a second: what is lost with a connection is sent again.
const minPiece = MiB / 4;
const maxPiece = 8 * MiB;
const quick = 500; // ms: the next piece may be larger
const slow = 4000; // ms: it has to be smaller
const maxWait = 30; // s between tries
const window = 10_000; // ms over which the rate is measured
const sayEvery = 15_000; // ms

// Stop is what goes to people, because trying again would not help.
class Stop extends Error {}

// <lh-upload to="/admin/import/upload"> sends the files of the form around it in
// pieces, and goes on where the server is after whatever broke.
export class Upload extends HTMLElement {
	private abort = new AbortController(); // of what is under way
	private gone = new AbortController(); // of the element
	private at?: Progress;
	private samples: [number, number][] = [];
	private said = 0;

	connectedCallback() {
		this.gone = new AbortController();
		const signal = this.gone.signal;
		this.form.addEventListener("submit", (e) => (e.preventDefault(), this.run()), { signal });
		this.button("go").addEventListener("click", () => this.run(), { signal });
		this.button("pause").addEventListener("click", () => this.pause(), { signal });
		this.button("cancel").addEventListener("click", () => this.cancel(), { signal });
	}

	disconnectedCallback() {
		this.gone.abort();
		this.abort.abort();
	}

	private get form() {
		return this.closest("form")!;
	}

	private button(name: string) {
		return this.querySelector<HTMLButtonElement>(`button[name=${name}]`)!;
	}

	private input(name: string) {
		return this.form.querySelector<HTMLInputElement>(`input[name=${name}]`)!;
	}

	private async run() {
		this.abort.abort();
		this.abort = new AbortController();
		const signal = this.abort.signal;
		this.hidden = false;
		this.samples = [];
		this.said = Date.now();
		this.show(this.dataset.begin, true);
		this.button("pause").focus();
		try {
			await this.send([...this.input("files").files!], signal);
		} catch (e) {
			if (signal.aborted) return;
			this.fail(e instanceof Stop ? e.message : String(e));
		}
	}

	private async send(files: File[], signal: AbortSignal) {
		const to = this.getAttribute("to")!;
		const plan = JSON.stringify({
			mailbox: this.input("mailbox").value,
			folder: this.input("folder").value,
			files: files.map((f) => ({ name: f.name, size: f.size, modified: f.lastModified })),
		});
		this.at = await this.insist("POST", to, () => plan, signal);
		const whole = new Blob(files);
		const { id, claim } = this.at;
		let piece = MiB;
		while (!this.at.report) {
			const { offset }: Progress = this.at;
			this.progress();
			const bytes = await whole
				.slice(offset, offset + piece)
				.arrayBuffer()
				.catch(() => {
					throw new Stop(this.dataset.changed);
				});
			const begun = Date.now();
			const answer = await this.insist("PUT", `${to}/${id}?claim=${claim}&offset=${offset}`, () => bytes, signal, `${to}/${id}`);
			const took = Date.now() - begun;
			if (took < quick) piece = Math.min(2 * piece, maxPiece);
			if (took > slow) piece = Math.max(piece / 2, minPiece);
			this.at = { ...answer, id, claim };
		}
		this.show(this.dataset.done, true);
		say(this.dataset.done);
		location.assign(this.at.report!);
	}

	// insist asks until there is an answer. After a connection that broke it asks
	// with GET how far the server is, if there is such an address.
	private async insist(method: string, to: string, body: () => BodyInit, signal: AbortSignal, state?: string): Promise<Progress> {
		let broke = false;
		for (let wait = 1; ; wait = Math.min(2 * wait, maxWait)) {
			const answer = await (broke && state ? this.ask("GET", state, undefined, signal) : this.ask(method, to, body(), signal));
			if (answer) return answer;
			broke = true;
			const text = fill(this.dataset.retry, { seconds: String(wait) });
			this.show(text, true);
			if (wait === 1) say(text);
			await new Promise((done) => setTimeout(done, wait * 1000));
			if (signal.aborted) throw new Stop();
		}
	}

	// ask returns nothing where the connection or the server failed.
	private async ask(method: string, to: string, body: BodyInit | undefined, signal: AbortSignal): Promise<Progress | undefined> {
		let r: Response, answer: Progress;
		try {
			r = await fetch(to, { method, body, signal, redirect: "manual" });
			if (r.type !== "opaqueredirect") answer = await r.json();
		} catch (e) {
			if (signal.aborted) throw e;
			return undefined;
		}
		if (r.type === "opaqueredirect") throw new Stop(this.dataset.signedout);
		if (r.ok || r.status === 409) return answer!;
		if (r.status === 503) return undefined;
		throw new Stop(answer!.problem);
	}

	private progress() {
		const { offset, total } = this.at!;
		const now = Date.now();
		this.samples.push([now, offset]);
		while (this.samples.length > 2 && now - this.samples[0][0] > window) this.samples.shift();
		const [then, before] = this.samples[0];
		const rate = now - then > 500 ? ((offset - before) / (now - then)) * 1000 : 0;
		this.querySelector("progress")!.value = total ? offset / total : 1;
		const text = fill(rate ? this.dataset.progress : this.dataset.have, { done: bytes(offset), all: bytes(total), rate: bytes(rate), left: rate ? duration((total - offset) / rate) : "" });
		this.show(text, true);
		if (now - this.said > sayEvery) {
			this.said = now;
			say(text);
		}
	}

	private pause() {
		this.abort.abort();
		const at = this.at ?? { offset: 0, total: 0 };
		const text = fill(this.dataset.paused, { done: bytes(at.offset), all: bytes(at.total) });
		this.show(text, false);
		say(text);
		this.button("go").focus();
	}

	private async cancel() {
		this.abort.abort();
		if (this.at) await fetch(`${this.getAttribute("to")}/${this.at.id}/drop`, { method: "POST", redirect: "manual" }).catch(() => {});
		location.assign(this.form.action + "?dropped");
	}

	private fail(why: string) {
		this.show("", false);
		const alert = this.querySelector<HTMLElement>("[role=alert]")!;
		alert.hidden = false;
		alert.textContent = why;
		this.button("go").focus();
	}

	// show says what is going on, or why nothing is.
	private show(text: string | undefined, going: boolean) {
		this.querySelector(".what")!.textContent = text ?? "";
		this.querySelector<HTMLElement>("[role=alert]")!.hidden = true;
		this.form.querySelector("fieldset")!.disabled = going;
		this.button("pause").hidden = !going;
		this.button("go").hidden = going;
	}
}

function fill(text: string | undefined, values: Record<string, string>) {
	return (text ?? "").replace(/{(\w+)}/g, (all, name) => values[name] ?? all);
}

function unit(n: number, unit: string, digits = 0) {
	return new Intl.NumberFormat(document.documentElement.lang, { style: "unit", unit, unitDisplay: "short", minimumFractionDigits: digits, maximumFractionDigits: digits }).format(n);
}

function bytes(n: number) {
	if (n < 1e6) return unit(n / 1e3, "kilobyte");
	return n < 1e9 ? unit(n / 1e6, "megabyte", 1) : unit(n / 1e9, "gigabyte", 2);
}

function duration(s: number) {
	if (s < 60) return unit(Math.ceil(s), "second");
	return s < 5400 ? unit(Math.round(s / 60), "minute") : unit(s / 3600, "hour", 1);
}
