import { hits } from "./keys";

// Beyond this many rows a page becomes slow to read and to move in; then "load
// more" leads to the next page.
const maxRows = 500;

interface Context {
	sourceElement: Element;
	target: Element | string; // a selector where the answer chose it
}

// say has a screen reader say what changed.
export function say(text: string | null | undefined) {
	const live = document.querySelector("lh-live");
	if (live) live.textContent = text ?? "";
}

// <lh-live role="status"> says what a swap changed, and keeps what stands
// outside of the swapped part in step with the address.
export class Live extends HTMLElement {
	private stop = new AbortController();
	private rows = 0;

	connectedCallback() {
		this.stop = new AbortController();
		const signal = this.stop.signal;
		document.addEventListener("htmx:before:request", (e) => this.before(e as CustomEvent), { signal });
		document.addEventListener("htmx:after:swap", (e) => this.after((e as CustomEvent).detail.ctx), { signal });
	}

	disconnectedCallback() {
		this.stop.abort();
	}

	private before(e: CustomEvent) {
		const link = (e.detail.ctx as Context).sourceElement;
		if (!link.closest("#more")) return;
		this.rows = hits().length - 1;
		if (this.rows >= maxRows) {
			e.preventDefault();
			location.assign((link as HTMLAnchorElement).href);
		}
	}

	private after(ctx: Context) {
		this.follow();
		const kept = document.activeElement !== document.body;
		switch (typeof ctx.target === "string" ? ctx.target.slice(1) : ctx.target.id) {
			case "more":
				hits()[this.rows]?.focus();
				say(document.getElementById("hits")?.dataset.loaded);
				break;
			case "read":
				// On a narrow page the list has made way for the message.
				if (!document.activeElement?.checkVisibility()) document.getElementById("read")?.focus();
				say(document.querySelector("#read h1")?.textContent);
				break;
			case "live":
			case "jobs":
			case "profiles":
				break; // they come again by themselves: nobody is to be disturbed
			default:
				if (!kept) document.getElementById("main")?.focus({ preventScroll: true });
				say(document.querySelector("main h1")?.textContent);
		}
	}

	// The address is the state: the row that is read, the search box and the way
	// back from the choice of language follow it.
	private follow() {
		const at = new URLSearchParams(location.search);
		for (const a of hits()) {
			const id = new URL(a.href).searchParams.get("m");
			if (id && id === at.get("m")) a.setAttribute("aria-current", "true");
			else a.removeAttribute("aria-current");
		}
		const box = document.querySelector<HTMLInputElement>("header input[name=q]");
		if (box && location.pathname === "/search") box.value = at.get("q") ?? "";
		const to = document.querySelector<HTMLInputElement>("header input[name=to]");
		if (to) to.value = location.pathname + location.search;
	}
}
