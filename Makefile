# The verbs: run, test, bench, soak, build. Each does its own set-up.
GO ?= go
FLAGS := -trimpath -buildvcs=false -ldflags=-s
PACKAGES := chromium zstd systemd python3-cryptography python3-zstandard python3-argon2
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

need:
	@for p in $(PACKAGES); do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then echo "installing$$missing"; $(SUDO) apt-get update -qq && DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y -qq --no-install-recommends $$missing >/dev/null; fi

# Everything long: power cuts at every operation, fuzzing for hours.
soak: need
	LETTERHOLD_SOAK=1 $(GO) test -timeout 12h ./...
	FUZZTIME=$${FUZZTIME:-20m} sh contrib/fuzz

bench:
	$(GO) test -run xxx -bench . -benchmem ./...

.PHONY: run build test need soak bench
