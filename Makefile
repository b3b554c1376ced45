# The verbs: run, test, bench, soak, build. Each does its own set-up.
GO ?= go
FLAGS := -trimpath -buildvcs=false -ldflags=-s
PACKAGES := chromium dovecot-imapd dovecot-pop3d dovecot-lmtpd postfix sasl2-bin zstd systemd python3-cryptography python3-zstandard python3-argon2
AXE := axe-core-4.14.1
AXESUM := 29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/letterhold
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

# Builds, makes an archive with a sample mailbox (or MAIL=path), and serves it.
run: build
	./letterhold try $(if $(MAIL),$(MAIL))

build:
	CGO_ENABLED=0 $(GO) build $(FLAGS) -o letterhold ./cmd/letterhold

# Passes all tests and installs what they need.
test: need
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	$(GO) test -shuffle=on $(TESTFLAGS) ./...

# axe-core checks accessibility; it is kept outside of the source.
define axe
mkdir -p "$(CACHE)/$(AXE)" && cd "$(CACHE)/$(AXE)" && npm pack --silent $(subst axe-core-,axe-core@,$(AXE)) >/dev/null && \
	tar -xzf $(AXE).tgz package/axe.min.js package/LICENSE --strip-components=1 && rm $(AXE).tgz && \
	{ echo "$(AXESUM)  axe.min.js" | sha256sum --check --quiet || { rm axe.min.js; false; }; }
endef

# Cyrus's packages are at odds with Dovecot's: they are kept beside them, with
# the libraries that they need installed.
define cyrus
{ $(SUDO) apt-get update -qq && DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y -qq --no-install-recommends \
	$$(apt-cache depends cyrus-common | sed -n 's/^ *Depends: \(lib[a-z0-9.+-]*\)$$/\1/p' | grep -v -e clamav -e zephyr) >/dev/null && \
	d=$$(mktemp -d) && cd "$$d" && apt-get download -qq -o APT::Sandbox::User=root cyrus-imapd cyrus-common && \
	for p in *.deb; do dpkg-deb -x $$p cyrus || exit 1; done && mkdir -p "$(CACHE)" && rm -rf "$(CACHE)/cyrus" && mv cyrus "$(CACHE)/cyrus" && rm -r "$$d"; }
endef

need:
	@for p in $(PACKAGES); do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then echo "installing$$missing"; $(SUDO) apt-get update -qq && DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y -qq --no-install-recommends $$missing >/dev/null; fi
	@if [ ! -f "$(CACHE)/$(AXE)/axe.min.js" ]; then if command -v npm >/dev/null; then echo "fetching $(AXE)"; $(axe); \
	else echo "npm is missing: accessibility is not checked"; fi; fi
	@if [ ! -x "$(CACHE)/cyrus/usr/lib/cyrus/bin/imapd" ]; then echo "unpacking Cyrus"; $(cyrus); fi

# Everything long: power cuts at every operation, fuzzing for hours.
soak: need
	LETTERHOLD_SOAK=1 $(GO) test -timeout 12h ./...
	FUZZTIME=$${FUZZTIME:-20m} sh contrib/fuzz

# The tables of docs/performance.md, beside notmuch and restic.
bench: PACKAGES = notmuch restic
bench: need build
	$(GO) run ./contrib/bench import search scale

.PHONY: run build test need soak bench
