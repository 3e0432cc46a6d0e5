package main

import (
	"path/filepath"
	"strconv"
)

// The peers read the same bytes from the same server and write them to the same place, without any decryption.

func (b *bench) peer(name string) string { return filepath.Join(b.peers, "bin", name) }

func (b *bench) python() string { return filepath.Join(b.peers, "venv", "bin", "python") }

// plainPeers download the prefix under rest, with settings that suit large files.
func (b *bench) plainPeers(d dataset, rest string) []variant {
	prefix := d.name + "/" + rest
	return []variant{
		b.rclone("rclone", prefix, "--multi-thread-streams", "4"),
		b.sdk("manager", "manager", prefix, 4, 5),
		b.sdk("transfermanager", "transfermanager", prefix, 4, 5),
		b.kserve(prefix),
		b.s5cmd(prefix),
	}
}

// smallPeers download many files, as they come and tuned.
func (b *bench) smallPeers(d dataset, kserve bool) []variant {
	prefix := d.name + "-plain/"
	all := []variant{
		b.rclone("rclone", prefix),
		b.rclone("rclone-64", prefix, "--transfers", "64", "--checkers", "64"),
		b.sdk("manager", "manager", prefix, 4, 5),
		b.sdk("manager-64", "manager", prefix, 64, 1),
		b.sdk("manager-128", "manager", prefix, 128, 1),
		b.sdk("transfermanager-64", "transfermanager", prefix, 64, 1),
		b.s5cmd(prefix),
	}
	if kserve {
		all = append(all, b.kserve(prefix))
	}
	return all
}

func (b *bench) rclone(name, prefix string, flags ...string) variant {
	return variant{name: name, needs: b.peer("rclone"), steps: func(s *serverProcess) []step {
		argv := []string{b.peer("rclone"), "copy", "bench:" + bucket + "/" + prefix, b.dst(), "--config", "",
			"--s3-no-check-bucket", "--ignore-checksum", "--no-traverse", "-q"}
		env := []string{"RCLONE_CONFIG_BENCH_TYPE=s3", "RCLONE_CONFIG_BENCH_PROVIDER=Other",
			"RCLONE_CONFIG_BENCH_ENV_AUTH=true", "RCLONE_CONFIG_BENCH_ENDPOINT=" + s.url}
		if s.ca != "" {
			argv = append(argv, "--ca-cert", s.ca)
		}
		return []step{{append(argv, flags...), env}}
	}}
}

func (b *bench) sdk(name, with, prefix string, files, concurrency int) variant {
	return variant{name: name, needs: b.peer("sdk-peers"), steps: func(s *serverProcess) []step {
		return []step{{argv: []string{b.peer("sdk-peers"), "-with", with, "-endpoint", s.url, "-ca", s.ca, "-bucket", bucket,
			"-prefix", prefix, "-dst", b.dst(), "-files", strconv.Itoa(files), "-concurrency", strconv.Itoa(concurrency)}}}
	}}
}

func (b *bench) s5cmd(prefix string) variant {
	return variant{name: "s5cmd", needs: b.peer("s5cmd"), steps: func(s *serverProcess) []step {
		argv := []string{b.peer("s5cmd"), "--endpoint-url", s.url}
		if s.ca != "" {
			argv = append(argv, "--no-verify-ssl")
		}
		return []step{{argv: append(argv, "cp", "s3://"+bucket+"/"+prefix+"*", b.dst()+"/")}}
	}}
}

// kserve is the storage package of KServe's own initializer.
func (b *bench) kserve(prefix string) variant {
	return variant{name: "kserve", needs: b.python(), steps: func(s *serverProcess) []step {
		return []step{b.kserveStep(s, prefix)}
	}}
}

func (b *bench) kserveStep(s *serverProcess, prefix string, more ...string) step {
	env := []string{"AWS_ENDPOINT_URL=" + s.url, "S3_USER_VIRTUAL_BUCKET=false", "HF_HUB_OFFLINE=1"}
	if s.ca != "" {
		env = append(env, "AWS_CA_BUNDLE="+s.ca)
	}
	argv := []string{b.python(), filepath.Join(b.peers, "download.py"), "s3://" + bucket + "/" + prefix, b.dst()}
	return step{append(argv, more...), env}
}

// secondSteps download an encrypted file and decrypt it when it is there.
func (b *bench) secondSteps(d dataset) []variant {
	return []variant{
		{name: "kserve + jwe", needs: b.python(), output: true, steps: func(s *serverProcess) []step {
			return []step{b.kserveStep(s, d.name+"-token/", filepath.Join(b.work, "jwe.key"))}
		}},
		{name: "rclone + age", needs: b.peer("age"), output: true, steps: func(s *serverProcess) []step {
			file := filepath.Join(b.dst(), "model-00000.bin")
			get := b.rclone("", d.name+"-age/", "--multi-thread-streams", "4").steps(s)
			key := filepath.Join(b.work, "age.key")
			return append(get, step{argv: []string{b.peer("age"), "-d", "-i", key, "-o", file, file + ".age"}})
		}},
	}
}
