import { say } from "./live";

// <lh-copy href="/m/..." done="Copied"><button>Copy link</button></lh-copy>
export class Copy extends HTMLElement {
	connectedCallback() {
		this.querySelector("button")?.addEventListener("click", () => this.copy());
	}

	private async copy() {
		const link = new URL(this.getAttribute("href") ?? "", location.href).href;
		try {
			await navigator.clipboard.writeText(link);
		} catch {
			return; // the browser has told why
		}
		const button = this.querySelector("button")!;
		const label = button.textContent;
		button.textContent = this.getAttribute("done");
		say(button.textContent);
		setTimeout(() => (button.textContent = label), 2000);
	}
}
