// What scripts add to pages that work without them. Nothing here makes markup
// from strings: Trusted Types allow that to htmx alone, behind its nonces.
import { Copy } from "./copy";
import { Keys } from "./keys";
import { Live } from "./live";
import { Upload } from "./upload";

customElements.define("lh-copy", Copy);
customElements.define("lh-keys", Keys);
customElements.define("lh-live", Live);
customElements.define("lh-upload", Upload);
