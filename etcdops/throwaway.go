package etcdops

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
)

// Throwaway is an etcd of its own process that serves a copy of some data to
// nobody but its starter, to see whether that data can be served.
//
// It listens on two unix sockets in its folder, which lets in only the folder's
// owner, and on no address. Where nodeagent is root it has a network namespace
// without any interface, so that it reaches no other member either, whatever the
// data says of peers. It dies with the process that started it; should both
// survive a mishap, [EndThrowaway] finds it by its folder.
type Throwaway struct {
	dir    string
	client *clientv3.Client
	cmd    *exec.Cmd
	ended  chan struct{} // closed when the process is gone
}

// ThrowawayOptions says what a throwaway etcd is started with.
type ThrowawayOptions struct {
	// Program is etcd's.
	Program string
	// Dir is the folder of its sockets, of its log and of a note by which it is
	// found again; made with mode 0700. It has at most one throwaway at a time.
	Dir string
	// Data is the data folder, in which it writes as every etcd does: never that
	// of a member.
	Data string
	// Name is the name that the member has in the data.
	Name string
	// Alone takes all other members out of the data before it serves
	// (--force-new-cluster): for a copy of what a member of several has.
	Alone bool
	// Low gives it what CPU and disk nobody else wants.
	Low bool
	// Quota is the size in bytes from which etcd refuses writes; 8 GiB by default,
	// the most that etcd recommends.
	Quota int64
	// Patience is for how long it may take to serve; 10 minutes by default.
	Patience time.Duration
}

// The names of what lies in the folder of a throwaway.
const (
	throwawayClients = "clients" // its socket for clients
	throwawayPeers   = "peers:0" // and for peers, who never come; etcd wants a port
	throwawayLog     = "log"
	throwawayNote    = "process.json"
)

// StartThrowaway starts an etcd and waits until it answers a read. On an error
// nothing runs. The caller ends it with Stop.
func StartThrowaway(ctx context.Context, opts ThrowawayOptions) (_ *Throwaway, err error) {
	opts.Patience = cmp.Or(opts.Patience, 10*time.Minute)
	t := &Throwaway{dir: opts.Dir, ended: make(chan struct{})}
	if err := t.prepare(); err != nil {
		return nil, fmt.Errorf("start a throwaway etcd: %w", err)
	}
	if err := t.start(opts); err != nil {
		return nil, fmt.Errorf("start a throwaway etcd: %w", err)
	}
	if t.client, err = t.connect(ctx); err == nil {
		err = t.waitServing(ctx, opts.Patience)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start a throwaway etcd: %w", err), t.Stop())
	}
	return t, nil
}

// Client speaks to the throwaway. Stop closes it.
func (t *Throwaway) Client() *clientv3.Client { return t.client }

// Endpoint is what the client's requests to one member take.
func (t *Throwaway) Endpoint() string { return "http://" + throwawayClients }

// prepare makes the folder and ends what an earlier throwaway left in it.
func (t *Throwaway) prepare() error {
	if err := os.MkdirAll(t.dir, 0o700); err != nil {
		return err
	}
	if err := os.Chmod(t.dir, 0o700); err != nil {
		return err
	}
	if err := EndThrowaway(t.dir); err != nil {
		return err
	}
	for _, name := range []string{throwawayClients, throwawayPeers, throwawayLog} {
		if err := os.Remove(filepath.Join(t.dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// start starts the process. The thread that does is kept until the process ends,
// which the kernel kills when that thread is gone.
func (t *Throwaway) start(opts ThrowawayOptions) error {
	cmd, err := t.command(opts)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(t.dir, throwawayLog), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		started <- startApart(cmd, opts.Low)
		if cmd.Process != nil {
			_ = cmd.Wait() // what it has to say is in its log
		}
		close(t.ended)
	}()
	if err := <-started; err != nil {
		return err
	}
	t.cmd = cmd
	if err := writeThrowawayNote(t.dir, cmd.Process.Pid); err != nil {
		return errors.Join(err, t.Stop())
	}
	return nil
}

// startApart starts the command from this thread, which it may lower for good, in
// a network namespace of its own if that is allowed.
func startApart(cmd *exec.Cmd, low bool) error {
	if low {
		if err := lowerThread(0); err != nil {
			return err
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Cloneflags: unix.CLONE_NEWNET}
	err := cmd.Start()
	if !errors.Is(err, syscall.EPERM) {
		return err
	}
	again := *cmd
	again.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	*cmd = again
	return cmd.Start()
}

// command is etcd's command line. Its environment is empty: there, ETCD_… would
// be settings, and NOTIFY_SOCKET that of nodeagent's own unit.
func (t *Throwaway) command(opts ThrowawayOptions) (*exec.Cmd, error) {
	data, err := filepath.Abs(opts.Data)
	if err != nil {
		return nil, err
	}
	program, err := exec.LookPath(opts.Program)
	if err != nil {
		return nil, err
	}
	if program, err = filepath.Abs(program); err != nil {
		return nil, err
	}
	clients, peers := "unix://"+throwawayClients, "unix://"+throwawayPeers
	cmd := exec.Command(program,
		"--name="+opts.Name, "--data-dir="+data,
		"--listen-client-urls="+clients, "--advertise-client-urls="+clients,
		"--listen-peer-urls="+peers, "--initial-advertise-peer-urls="+peers,
		"--initial-cluster="+opts.Name+"="+peers,
		"--initial-cluster-state=existing", // without data it must not begin anything
		"--quota-backend-bytes="+strconv.FormatInt(cmp.Or(opts.Quota, 8<<30), 10),
		"--unsafe-no-fsync", "--log-level=warn", "--log-outputs=stderr",
		"--force-new-cluster="+strconv.FormatBool(opts.Alone),
	)
	cmd.Dir = t.dir // the sockets' names are relative, whose length is limited
	cmd.Env = []string{"GOMEMLIMIT=512MiB", "GOMAXPROCS=1"}
	return cmd, nil
}

// connect makes a client that reaches the socket, whatever it is asked to dial.
func (t *Throwaway) connect(ctx context.Context) (*clientv3.Client, error) {
	client, err := newClient(clientv3.Config{Context: ctx, Endpoints: []string{t.Endpoint()}, DialOptions: []grpc.DialOption{
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return t.dial(ctx) }),
	}, MaxCallRecvMsgSize: math.MaxInt32})
	if err != nil {
		return nil, fmt.Errorf("connect to it: %w", err)
	}
	return client, nil
}

// dial connects to the clients' socket by way of its open folder, since the path
// of a socket has at most 107 bytes.
func (t *Throwaway) dial(ctx context.Context) (net.Conn, error) {
	dir, err := os.Open(t.dir)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return (&net.Dialer{}).DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), throwawayClients))
}

// waitServing polls until a read goes through, or the process has ended.
func (t *Throwaway) waitServing(ctx context.Context, patience time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("it does not serve within %s", patience))
	defer cancel()
	go func() { // a request waits for a server that is gone
		select {
		case <-t.ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		_, err := healthyOnce(ctx, t.client, t.Endpoint())
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
			continue
		}
		if exited(t.ended) {
			return fmt.Errorf("it ended; it last said: %s", t.lastWords())
		}
		return fmt.Errorf("%w: %w; it last said: %s", context.Cause(ctx), err, t.lastWords())
	}
}

func exited(ended chan struct{}) bool {
	select {
	case <-ended:
		return true
	default:
		return false
	}
}

// lastWords are the last lines of its log.
func (t *Throwaway) lastWords() string {
	text, err := os.ReadFile(filepath.Join(t.dir, throwawayLog))
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-5):], []byte("\n")))
}

// stopPatience is how long a throwaway may take to end when it is asked to.
const stopPatience = 30 * time.Second

// Stop ends the process, by force if it does not go, and closes the client. Its
// folder and its data are the caller's to remove.
func (t *Throwaway) Stop() error {
	var failed []error
	if t.client != nil {
		failed = append(failed, closeClient(t.client))
	}
	if t.cmd != nil && t.cmd.Process != nil {
		_ = t.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		timer := time.NewTimer(stopPatience)
		defer timer.Stop()
		select {
		case <-t.ended:
		case <-timer.C:
			_ = t.cmd.Process.Kill()
			<-t.ended
		}
	}
	if err := os.Remove(filepath.Join(t.dir, throwawayNote)); err != nil && !errors.Is(err, os.ErrNotExist) {
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}
