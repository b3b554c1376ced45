// hits are the links of the list, "load more" at its end included.
export function hits(): HTMLAnchorElement[] {
	return [...document.querySelectorAll<HTMLAnchorElement>("#hits a")];
}

const keys: Record<string, () => void> = {
	"/": () => {
		const box = document.querySelector<HTMLInputElement>("header input[name=q]");
		box?.focus();
		box?.select();
	},
	j: () => move(1),
	k: () => move(-1),
	o: () => {
		const a = document.activeElement;
		if (a instanceof HTMLAnchorElement && a.closest("#hits")) a.click();
	},
	u: () => {
		const up = document.querySelector<HTMLAnchorElement>("a.up");
		if (up?.checkVisibility()) up.click();
		else current()?.focus();
	},
	"?": () => location.assign("/help#keys"),
};

function current(): HTMLAnchorElement | undefined {
	const all = hits();
	return all.find((a) => a === document.activeElement) ?? all.find((a) => a.ariaCurrent === "true");
}

function move(by: number) {
	const all = hits();
	const at = current();
	const to = at ? all[all.indexOf(at) + by] : all[0];
	to?.focus();
	to?.scrollIntoView({ block: "nearest" });
}

function typing(e: KeyboardEvent): boolean {
	const t = e.target as Element;
	return e.isComposing || t.matches("input, textarea, select, [contenteditable]");
}

// <lh-keys> is on a page where single keys are switched on.
export class Keys extends HTMLElement {
	private stop = new AbortController();

	connectedCallback() {
		this.stop = new AbortController();
		document.addEventListener("keydown", (e) => this.press(e), { signal: this.stop.signal });
	}

	disconnectedCallback() {
		this.stop.abort();
	}

	private press(e: KeyboardEvent) {
		if (e.ctrlKey || e.metaKey || e.altKey || typing(e) || !Object.hasOwn(keys, e.key)) return;
		e.preventDefault();
		keys[e.key]();
	}
}
