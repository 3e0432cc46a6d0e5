# `make help` lists the targets. Nothing here is needed to build or test: `go build -o bin/sealfetch ./cmd/sealfetch`, `go test ./...`.

VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOBUILD     := CGO_ENABLED=0 go build -trimpath -buildvcs=auto -ldflags "-s -w -X main.version=$(VERSION)"
ROOTS       ?= /etc/ssl/certs/ca-certificates.crt
E2E         := go test -tags e2e -count=1 -timeout 20m -v

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {split($$1, t, ":"); printf "  %-16s %s\n", t[1], $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: bin/sealfetch ## bin/sealfetch, static, for this machine

.PHONY: bin/sealfetch
bin/sealfetch:
	$(GOBUILD) -o $@ ./cmd/sealfetch

.PHONY: test
test: ## all tests, with the race detector
	go test -race ./...

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME seconds (default 10)
	.ci/fuzz $(or $(FUZZTIME),10)

.PHONY: lint
lint: ## gofmt, go vet and staticcheck
	@test -z "$$(gofmt -l .)" || { gofmt -d .; exit 1; }
	go vet -tags e2e ./...
	GOFLAGS= go run $(STATICCHECK) -tags e2e ./...

.PHONY: e2e
e2e: e2e-s3 e2e-identity e2e-oidc e2e-swtpm e2e-runc check-deploy ## the end-to-end tests that take seconds

.PHONY: e2e-s3
e2e-s3: ## seal and load through versitygw, a real S3 server; SEALFETCH_E2E_SIZE=4Gi for figures
	$(E2E) -run TestS3 ./e2e

.PHONY: e2e-memory
e2e-memory: ## peak memory of loads through versitygw; SEALFETCH_E2E_SIZES="64Mi 8Gi" for figures
	$(E2E) -run TestPeakMemory ./e2e

.PHONY: e2e-identity
e2e-identity: ## web identity against the STS of versitygw
	$(E2E) ./e2e/versitygw

.PHONY: e2e-oidc
e2e-oidc: ## client credentials against oidc-provider, an issuer that others wrote
	@command -v npm >/dev/null || $(call install,npm)
	$(E2E) ./e2e/oidcprovider

.PHONY: e2e-renewal
e2e-renewal: ## ten minutes of downloading with credentials that last one
	$(E2E) ./e2e/renewal

.PHONY: e2e-attestation
e2e-attestation: ## real attestation documents, which are downloaded; a TPM and a KMS that never answer
	$(E2E) -run 'TestRealDocuments|TestTPMNeverAnswers|TestHungTPM|TestServicesThatNeverAnswer|TestKMSNeverRecovers' ./cmd/sealfetch

.PHONY: e2e-swtpm
e2e-swtpm: ## the TPM code against swtpm
	@command -v swtpm >/dev/null || $(call install,swtpm swtpm-tools)
	go test -count=1 -v -run Swtpm ./attest

.PHONY: e2e-runc
e2e-runc: image-root ## the image under runc: read-only root, no capabilities, memory limit; needs root
	@{ command -v buildah && command -v runc; } >/dev/null || $(call install,buildah runc)
	$(E2E) -run TestRunc ./e2e

install = { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(1) >/dev/null; }

.PHONY: check-deploy
check-deploy: ## decode deploy/ strictly and check what KServe users trip over; no cluster needed
	cd e2e/deploy && go vet . && go test -count=1 .

.PHONY: image-root
image-root: release ## what the Dockerfile's target `prebuilt` copies
	mkdir -p bin/image
	cp bin/release/sealfetch-linux-amd64 bin/release/sealfetch-linux-arm64 bin/image/
	cp $(ROOTS) bin/image/ca-certificates.crt

.PHONY: release
release: ## bin/release: static binaries for amd64 and arm64, the modules they are made of, checksums
	rm -rf bin/release && mkdir -p bin/release
	for arch in amd64 arm64; do \
		GOOS=linux GOARCH=$$arch $(GOBUILD) -o bin/release/sealfetch-linux-$$arch ./cmd/sealfetch || exit 1; \
		go version -m bin/release/sealfetch-linux-$$arch | sed 1d > bin/release/sealfetch-linux-$$arch.modules || exit 1; \
	done
	cd bin/release && sha256sum sealfetch-* > SHA256SUMS

-include bench/bench.mk
