package etcdops

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/test/measure"
	"github.com/nodeagent/nodeagent/test/servers"
)

// benchMiB is how many MiB of objects the database holds; NODEAGENT_BENCH_MIB
// sets another number.
func benchMiB(b *testing.B) int {
	text := os.Getenv("NODEAGENT_BENCH_MIB")
	if text == "" {
		return 1250
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// benchJob is what a process of its own does, so that its memory can be told
// from that of etcd's programs.
type benchJob struct {
	Host      *host
	Recipient string
	Identity  string
	Dir       string
	Snapshot  string // to restore; empty: save
	TLS       bool   // save as from another host, without the socket
}

// BenchmarkSnapshot compares save and restore with etcd's own tools in one run,
// over one database of objects like those of Kubernetes. What nodeagent does
// includes everything that its commands do: save checks, compresses and encrypts,
// restore opens that, verifies before and after. Its save of the host's own member
// goes by the socket, as it does on a host; etcdctl goes over TLS, as it is told to,
// and so does a save of another host's member.
// The ways take turns; of each the median counts. Run it with -benchtime 1x.
func BenchmarkSnapshot(b *testing.B) {
	builder, err := servers.New(os.Stderr)
	if err != nil {
		b.Fatal(err)
	}
	tools, err := builder.ReleasedEtcd(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	etcdctl, etcdutl := filepath.Join(tools, "etcdctl"), filepath.Join(tools, "etcdutl")
	launcher, err := measure.Build(b.Context(), b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	h := newHost(b)
	h.Server.Quota = 8 << 30
	if err := h.Start(b.Context(), "etcd"); err != nil {
		b.Fatal(err)
	}
	h.waitHealthy(b)
	load(b, h, benchMiB(b))
	h.Server.Durable = true
	if err := h.Restart(b.Context(), "etcd"); err != nil {
		b.Fatal(err)
	}
	h.waitHealthy(b)
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	job := benchJob{Host: h, Recipient: identity.Recipient().String(), Identity: identity.String(), Dir: filepath.Join(dir, "saved")}
	plain := filepath.Join(dir, "theirs.db")

	ours := func() measure.Usage {
		remove(b, job.Dir)
		return launch(b, launcher, selfJob(b, job))
	}
	theirs := func() measure.Usage {
		remove(b, plain)
		return launch(b, launcher, exec.Command(etcdctl, "--endpoints", h.endpoint(), "--cert", h.Files.Cert, "--key", h.Files.Key, "--cacert", h.Files.CA, "snapshot", "save", plain))
	}
	save := versus(b, h, "save", ours, theirs)
	job.TLS = true
	overTLS := versus(b, h, "save over TLS", ours, theirs)
	job.TLS = false
	entries, err := List(job.Dir)
	if err != nil || len(entries) != 1 {
		b.Fatal(entries, err)
	}
	info, err := os.Stat(plain)
	if err != nil {
		b.Fatal(err)
	}
	share := float64(entries[0].Size) / float64(info.Size())
	b.Logf("%s on disk, plain %s: %.2f", bytesText(entries[0].Size), bytesText(info.Size()), share)

	job.Snapshot = entries[0].Path
	data := filepath.Join(dir, "restored")
	restore := versus(b, h, "restore", func() measure.Usage {
		staged, err := filepath.Glob(h.Root.EtcdData() + ".restore-*")
		if err != nil {
			b.Fatal(err)
		}
		for _, old := range staged {
			remove(b, old)
		}
		return launch(b, launcher, selfJob(b, job))
	}, func() measure.Usage {
		remove(b, data)
		return launch(b, launcher, exec.Command(etcdutl, "snapshot", "restore", plain, "--data-dir", data, "--bump-revision", fmt.Sprint(DefaultRevisionBump), "--mark-compacted"))
	})
	job.Snapshot = ""
	latencies(b, h, func() { ours() }, func() { theirs() })
	b.ReportMetric(share, "size/plain")
	b.ReportMetric(save, "save/etcdctl")
	b.ReportMetric(overTLS, "save-over-TLS/etcdctl")
	b.ReportMetric(restore, "restore/etcdutl")
}

// versus lets two ways take turns and answers how much of the other's time the
// first takes. What the server spends meanwhile is taken from the same processor.
func versus(b *testing.B, h *host, what string, ours, theirs func() measure.Usage) float64 {
	const turns = 5
	var ratios []float64
	for range turns {
		began := serverCPU(b, h)
		o := ours()
		between := serverCPU(b, h)
		t := theirs()
		end := serverCPU(b, h)
		ratio := o.Wall.Seconds() / t.Wall.Seconds()
		b.Logf("%s: %.2f s of etcd's %.2f s: %.2f; processor %.2f s, %.2f s; of the server %.2f s, %.2f s; peak memory without mapped files %s, %s",
			what, o.Wall.Seconds(), t.Wall.Seconds(), ratio, o.CPU.Seconds(), t.CPU.Seconds(), (between - began).Seconds(), (end - between).Seconds(),
			bytesText(o.PeakAnon), bytesText(t.PeakAnon))
		ratios = append(ratios, ratio)
	}
	slices.Sort(ratios)
	return ratios[turns/2]
}

// serverCPU is the processor's time that etcd has taken since it began.
func serverCPU(b *testing.B, h *host) time.Duration {
	pid, err := h.pid(layout.Etcd)
	if err != nil {
		b.Fatal(err)
	}
	var spent unix.Timespec
	// The clock of another process, as clock_getcpuclockid(3) makes its id.
	if err := unix.ClockGettime(int32(^pid)<<3|2, &spent); err != nil {
		b.Fatal(err)
	}
	return time.Duration(spent.Nano())
}

// latencies says what a steady load of writes feels of a save, ours and theirs.
func latencies(b *testing.B, h *host, ours, theirs func()) {
	quiet := func() { time.Sleep(5 * time.Second) }
	for _, during := range []struct {
		what string
		do   func()
	}{{"nothing", quiet}, {"nodeagent's save", ours}, {"etcdctl's save", theirs}} {
		took := writes(b, h, during.do)
		slices.Sort(took)
		at := func(share float64) time.Duration {
			return took[min(int(share*float64(len(took))), len(took)-1)].Round(10 * time.Microsecond)
		}
		b.Logf("a write each 5 ms during %s: %d writes, median %s, of 99 in 100 %s, longest %s", during.what, len(took), at(0.5), at(0.99), at(1))
	}
}

// writes writes a small key each 5 ms while something is done, and answers how
// long each write took.
func writes(b *testing.B, h *host, do func()) []time.Duration {
	client := h.client(b)
	defer client.Close()
	done := make(chan struct{})
	go func() { defer close(done); do() }()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	var took []time.Duration
	for {
		select {
		case <-done:
			return took
		case <-ticker.C:
			began := time.Now()
			if _, err := client.Put(b.Context(), "/steady", began.String()); err != nil {
				b.Fatal(err)
			}
			took = append(took, time.Since(began))
		}
	}
}

func remove(b *testing.B, path string) {
	if err := os.RemoveAll(path); err != nil {
		b.Fatal(err)
	}
}

func launch(b *testing.B, launcher measure.Launcher, cmd *exec.Cmd) measure.Usage {
	usage, err := launcher.Run(cmd, "")
	if err != nil {
		b.Fatal(err)
	}
	return usage
}

func selfJob(b *testing.B, job benchJob) *exec.Cmd {
	cmd, err := selfAs(envBench, job)
	if err != nil {
		b.Fatal(err)
	}
	return cmd
}

// runBench does what `nodeagent snapshot save` does, or `restore` up to where the
// live data would be touched.
func runBench(config []byte) error {
	var job benchJob
	if err := json.Unmarshal(config, &job); err != nil {
		return err
	}
	if job.Snapshot == "" {
		opts := job.Host.saveOptions()
		opts.Dir = job.Dir
		opts.step = mustPass
		if job.TLS {
			opts.Site.Socket = ""
		}
		recipients, err := ParseRecipients([]string{job.Recipient})
		if err != nil {
			return err
		}
		opts.Sealing = Sealing{Compress: true, Recipients: recipients}
		if opts.Signer, _, err = HostSigner(job.Host.Root); err != nil { // as every host does
			return err
		}
		_, err = Save(context.Background(), opts)
		return err
	}
	identity, err := age.ParseX25519Identity(job.Identity)
	if err != nil {
		return err
	}
	opts := job.Host.restoreOptions(job.Snapshot)
	opts.Identities = []age.Identity{identity}
	plan, err := PlanRestore(context.Background(), opts)
	if err != nil {
		return err
	}
	return stage(context.Background(), plan, func(int64, int64) {})
}

// mustPass is for saves all of whose databases etcd has made.
func mustPass(step string) {
	if step == stepAgain {
		panic(step)
	}
}

// load fills etcd with so many MiB of objects, as large and as compressible as
// those of a cluster: names, labels and fields that repeat, and in them what
// does not (uids, hashes, times, addresses).
func load(b testing.TB, h *host, mib int) {
	const batch, size = 64, 10 << 10
	count := mib << 20 / size
	client := h.client(b)
	defer client.Close()
	group, ctx := errgroup.WithContext(b.Context())
	group.SetLimit(4)
	for first := 0; first < count; first += batch {
		group.Go(func() error {
			var ops []clientv3.Op
			for i := first; i < min(first+batch, count); i++ {
				key := fmt.Sprintf("/registry/pods/namespace-%02d/pod-%06d", i%40, i)
				ops = append(ops, clientv3.OpPut(key, objectLike(uint64(i), size)))
			}
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			_, err := client.Txn(ctx).Then(ops...).Commit()
			return err
		})
	}
	if err := group.Wait(); err != nil {
		b.Fatal(err)
	}
}

// objectLike is the same for the same seed.
func objectLike(seed uint64, size int) string {
	random := rand.New(rand.NewPCG(seed, 1))
	var text strings.Builder
	fmt.Fprintf(&text, "k8s\x00\n\f\n\x02v1\x12\x06Pod\x12\x86metadata\n\x0epod-%06d\x12\x00\x1a\x0cnamespace-%02d*$%08x-%04x-%04x", seed, seed%40, random.Uint32(), random.Uint32()>>16, random.Uint32()>>16)
	for i := 0; text.Len() < size; i++ {
		fmt.Fprintf(&text, "\x12\x1dapp.kubernetes.io/component\x1a\x0aworker-%02d", random.IntN(30))
		fmt.Fprintf(&text, "\x1a\x20registry.example.com/team/image@sha256:%s", random64(random))
		fmt.Fprintf(&text, "\x22\x12SETTING_%03d\x12\x14http://10.%d.%d.%d:8080/path\x2a\x14terminationMessagePath\x12/dev/termination-log", random.IntN(500), random.IntN(255), random.IntN(255), random.IntN(255))
		fmt.Fprintf(&text, "\x12\x0fcontainerd://%s\x1a\x05token%s", random64(random), random64(random))
		fmt.Fprintf(&text, "lastTransitionTime\x12\x08%d\x1a\x04True\x22\x0bContainersReady kube-api-access-%05x /var/run/secrets/kubernetes.io/serviceaccount", 1_700_000_000+random.IntN(50_000_000), random.IntN(1<<20))
	}
	return text.String()[:size]
}

// random64 is 64 characters of six bits each, as hashes and tokens are on the
// whole: some hexadecimal, some base64, some protobuf.
func random64(random *rand.Rand) string {
	var text [64]byte
	for i := range text {
		text[i] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[random.IntN(64)]
	}
	return string(text[:])
}
