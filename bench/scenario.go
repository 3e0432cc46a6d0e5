package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// scenario is data, a server and the variants that are run against it, one after the other, in each round.
type scenario struct {
	name, title string
	data        dataset
	server      []string // flags
	tls         bool
	oneCore     bool
	onLink      bool // the server is behind the 10 Gbit/s link
	rounds      int
	setUp       func() error
	afterData   func(context.Context) error
	tearDown    func()
	variants    []variant
}

// variant is one way to do the scenario's work.
type variant struct {
	name    string
	steps   func(server *serverProcess) []step // run one after the other and added up
	between func() error                       // what happens between two steps and counts for neither
	needs   string                             // a peer's file: without it the variant is left out
	output  bool                               // the destination holds the model afterwards
}

// step is one process.
type step struct {
	argv []string
	env  []string
}

const (
	mib = 1 << 20
	gib = 1 << 30
)

func (b *bench) scenarios() []scenario {
	if b.gate {
		return []scenario{b.gateScenario()}
	}
	big := dataset{name: "big", files: 4, size: 256 * mib, same: true}
	rounds := 3
	if b.full {
		big.size, rounds = gib, 5
	}
	small := dataset{name: "small", files: 2000, size: 100 << 10, plain: true}
	quick := []scenario{
		{name: "big", title: fmt.Sprintf("%d x %s, HTTP, two cores", big.files, human(big.size)), data: big, rounds: rounds,
			variants: concat(b.ours(big), b.bare(big), b.floors(big), b.plainPeers(big, "data/"))},
		{name: "one-core", title: "the same, client on one core, server on the other", data: big, rounds: rounds,
			oneCore: true, variants: concat(b.ours(big), b.bare(big), b.plainPeers(big, "data/"))},
		{name: "one-core-tls", title: "the same over TLS 1.3", data: big, rounds: rounds, oneCore: true, tls: true,
			variants: concat(b.ours(big), b.bare(big), b.plainPeers(big, "data/"))},
		{name: "seal", title: "seal and upload, HTTP", data: big, rounds: rounds, variants: b.sealing(big)},
		{name: "small", title: "2,000 files of 100 KiB, HTTP", data: small, rounds: rounds,
			variants: concat(b.ours(small)[:1], b.smallPeers(small, true))},
		{name: "requests", title: "20,000 ranges of 4 KiB: what a request costs", data: small, rounds: rounds, oneCore: true,
			variants: []variant{{name: "source", steps: b.childStep("get-source", small, "-part", "4096", "-connections", "4")},
				{name: "floor: net/http", steps: b.childStep("get-bare", small, "-part", "4096", "-connections", "4")}}},
		{name: "startup", title: "from exec to the first request", data: dataset{name: "tiny", files: 1, size: 1024},
			rounds: 10, variants: []variant{{name: "sealed", steps: b.startup}}},
	}
	if !b.full {
		return quick
	}
	return append(quick, b.slowScenarios(big, small)...)
}

func (b *bench) gateScenario() scenario {
	data := dataset{name: "big", files: 4, size: 256 * mib, same: true}
	return scenario{name: "gate", title: "sealed and plain, the same engine", data: data, rounds: 7, oneCore: true,
		variants: b.ours(data)[:2]}
}

// slowScenarios are the ones of networks, of big objects and of the Python peers' second step.
func (b *bench) slowScenarios(big, small dataset) []scenario {
	one := dataset{name: "one", files: 1, size: gib}
	huge := dataset{name: "huge", files: 1, size: 8 * gib, drop: true}
	jwe := dataset{name: "jwe", files: 1, size: 512 * mib, plain: true}
	capped := []string{"-conn-rate", "90e6", "-first-byte", "40ms"}
	rtt := []string{"-rtt", "20ms", "-link-rate", "125e6"}
	return []scenario{
		{name: "small-40ms", title: "2,000 files of 100 KiB, 40 ms to the first byte", data: small, rounds: 3,
			server: []string{"-first-byte", "40ms"}, variants: concat(b.ours(small)[:1], b.smallPeers(small, false))},
		{name: "link-10g", title: "4 x 1 GiB over a 10 Gbit/s link", data: big, rounds: 5, onLink: true,
			setUp: b.makeLink, variants: concat(b.ours(big), b.plainPeers(big, "data/")[:2])},
		{name: "hugepages", title: "4 x 1 GiB, HTTP, destination a tmpfs with huge=within_size", data: big, rounds: 5,
			afterData: b.mountHuge, tearDown: b.unmount,
			variants: concat(b.ours(big)[:2], b.floors(big)[2:], b.plainPeers(big, "data/")[:2])},
		{name: "capped", title: "4 x 1 GiB, each connection capped at 90 MB/s, 40 ms to the first byte", data: big, rounds: 5,
			server: capped, variants: concat(b.ours(big)[:1], b.fixed(8, 16, 32, 64))},
		{name: "rtt", title: "1 GiB, 20 ms round trip with slow start, 1 Gbit/s", data: one, rounds: 3,
			server: rtt, variants: concat(b.ours(one)[:1], b.fixed(8, 16, 64))},
		{name: "rtt-loss", title: "the same, connections as slow as 1 % loss makes them (Mathis et al.)", data: one,
			rounds: 3, server: append([]string{"-conn-rate", fmt.Sprintf("%.0f", lossRate(20*time.Millisecond, 0.01))}, rtt...),
			variants: concat(b.ours(one)[:1], b.fixed(64, 128))},
		{name: "jwe", title: "one file of 512 MiB: KServe's download and JWE decryption, age, and sealed", data: jwe,
			rounds: 3, afterData: b.encryptForPeers, variants: concat(b.ours(jwe)[:1], b.secondSteps(jwe))},
		{name: "huge", title: "one file of 8 GiB, HTTP", data: huge, rounds: 3,
			variants: concat(b.ours(huge)[:2], []variant{b.sealed64(huge)}, b.plainPeers(huge, "data/")[:1])},
		{name: "cgroup", title: "one file of 8 GiB: cgroup peak beyond the model, as anon", data: huge, rounds: 2,
			variants: []variant{b.inCgroup(huge)}},
	}
}

// lossRate is what loss leaves to one TCP connection, bytes a second: MSS/RTT * sqrt(3/2)/sqrt(p).
func lossRate(rtt time.Duration, p float64) float64 {
	return 1460 / rtt.Seconds() * 1.2247 / sqrt(p)
}

func concat(lists ...[]variant) (all []variant) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// initEnv is what KServe and an operator would set.
func (b *bench) initEnv(server *serverProcess) []string {
	env := []string{"AWS_ENDPOINT_URL_S3=" + server.url, "SEALFETCH_TRUST_KEY=jwk:" + b.key(),
		"SEALFETCH_TERMINATION_LOG="}
	if server.ca != "" {
		env = append(env, "SEALFETCH_CA_BUNDLE="+server.ca)
	}
	return env
}

// initStep is the container's entrypoint.
func (b *bench) initStep(server *serverProcess, d dataset, flags ...string) step {
	argv := append([]string{b.binary, "init"}, flags...)
	return step{append(argv, "sealed+s3://"+bucket+"/"+d.name, b.dst()), b.initEnv(server)}
}

// ours are the real binary, the same engine without decryption, and decryption without a destination.
func (b *bench) ours(d dataset) []variant {
	return []variant{
		{name: "sealed", output: true, steps: func(s *serverProcess) []step { return []step{b.initStep(s, d)} }},
		{name: "plain, same engine", steps: b.childStep("plain", d, "-dir", b.dst(), "-connections", "128", "-start", "16")},
		{name: "sealed, nothing written", steps: func(s *serverProcess) []step {
			return []step{{[]string{b.binary, "verify", "sealed+s3://" + bucket + "/" + d.name}, b.initEnv(s)}}
		}},
	}
}

// sealed64 lets the network have 64 connections at once.
func (b *bench) sealed64(d dataset) variant {
	return variant{name: "sealed-64", steps: b.fixedStep(d, 64)}
}

// fixed are settings that do not adapt.
func (b *bench) fixed(connections ...int) (all []variant) {
	for _, n := range connections {
		d := dataset{name: "big"}
		all = append(all, variant{name: fmt.Sprintf("fixed-%d", n), steps: func(s *serverProcess) []step {
			d.name = b.current
			return b.fixedStep(d, n)(s)
		}})
	}
	return all
}

func (b *bench) fixedStep(d dataset, n int) func(*serverProcess) []step {
	return func(s *serverProcess) []step { return []step{b.initStep(s, d, "--connections", strconv.Itoa(n))} }
}

// bare is the work with nothing around it.
func (b *bench) bare(d dataset) []variant {
	return []variant{{name: "floor: bare loop", steps: b.childStep("bare", d, "-dir", b.dst())}}
}

// floors are the parts of the work measured apart.
func (b *bench) floors(d dataset) []variant {
	bytes := strconv.FormatInt(d.bytes(), 10)
	cores := []string{"-connections", "2", "-bytes", bytes}
	return []variant{
		{name: "floor: receive", steps: b.childStep("receive", d)},
		{name: "floor: AES-GCM", steps: b.localStep("gcm-open", cores...)},
		{name: "floor: write", steps: b.localStep("write", append(cores, "-dir", b.dst())...)},
	}
}

// sealing is publishing, and the parts of that work measured apart.
func (b *bench) sealing(d dataset) []variant {
	bytes := strconv.FormatInt(d.bytes(), 10)
	cores := []string{"-connections", "2", "-bytes", bytes}
	return []variant{
		{name: "seal", steps: func(s *serverProcess) []step {
			return []step{{[]string{b.binary, "seal", "--model", "bench/up", "--version", "1", "--wrap", "jwk:" + b.key(),
				b.sourceDir(d), "s3://" + bucket + "/new/" + strconv.FormatInt(time.Now().UnixNano(), 36)}, b.sealEnv(s)}}
		}},
		{name: "floor: read", steps: b.localStep("read", "-connections", "2", "-dir", b.sourceDir(d))},
		{name: "floor: AES-GCM", steps: b.localStep("gcm-seal", cores...)},
		{name: "floor: upload", steps: func(s *serverProcess) []step {
			return []step{{argv: []string{b.self, "child", "upload", "-endpoint", s.url, "-connections", "8",
				"-part", "16777216", "-bytes", bytes}}}
		}},
	}
}

func (b *bench) sealEnv(s *serverProcess) []string { return []string{"AWS_ENDPOINT_URL_S3=" + s.url} }

func (b *bench) childStep(kind string, d dataset, flags ...string) func(*serverProcess) []step {
	return func(s *serverProcess) []step {
		objects, err := b.objects(d)
		if err != nil {
			return []step{{argv: []string{"false", err.Error()}}}
		}
		return []step{{argv: append([]string{b.self, "child", kind, "-endpoint", s.url, "-ca", s.ca, "-prefix", d.name,
			"-objects", objects}, flags...)}}
	}
}

func (b *bench) localStep(kind string, flags ...string) func(*serverProcess) []step {
	return func(*serverProcess) []step { return []step{{argv: append([]string{b.self, "child", kind}, flags...)}} }
}

// startup stops sealfetch with its first request: the endpoint is a child that dies of it.
func (b *bench) startup(s *serverProcess) []step {
	argv := []string{b.self, "first-request", b.binary, "init", "sealed+s3://" + bucket + "/tiny", b.dst()}
	return []step{{argv, b.initEnv(s)}}
}

// inCgroup runs sealfetch in a memory cgroup of its own and prints the peak.
func (b *bench) inCgroup(d dataset) variant {
	return variant{name: "sealed-64", steps: func(s *serverProcess) []step {
		init := b.initStep(s, d, "--connections", "64")
		return []step{{append([]string{b.self, "cgroup", strconv.FormatInt(d.bytes(), 10)}, init.argv...), init.env}}
	}}
}

// encryptForPeers makes what the second steps decrypt.
func (b *bench) encryptForPeers(ctx context.Context) error {
	source := filepath.Join(b.work, "s3", bucket, "jwe-plain", "model-00000.bin")
	for _, dir := range []string{"jwe-token", "jwe-age"} {
		if err := os.MkdirAll(filepath.Join(b.work, "s3", bucket, dir), 0o755); err != nil {
			return err
		}
	}
	if python := b.python(); exists(python) {
		out := filepath.Join(b.work, "s3", bucket, "jwe-token", "model-00000.bin.jwe")
		key := filepath.Join(b.work, "jwe.key")
		if err := quietly(ctx, python, filepath.Join(b.peers, "encrypt_jwe.py"), source, out, key); err != nil {
			return err
		}
	}
	if age := b.peer("age"); exists(age) {
		key := filepath.Join(b.work, "age.key")
		_ = os.Remove(key)
		if err := quietly(ctx, b.peer("age-keygen"), "-o", key); err != nil {
			return err
		}
		out := filepath.Join(b.work, "s3", bucket, "jwe-age", "model-00000.bin.age")
		return quietly(ctx, age, "-e", "-i", key, "-o", out, source)
	}
	return nil
}

func quietly(ctx context.Context, argv ...string) error {
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return errors.Join(err, errors.New(tail(string(out), 1000)))
	}
	return nil
}
