// Command launch runs a program and prints what it took, a [measure.Usage] in
// one line of JSON, to standard output; what the program prints goes to standard
// error.
//
//	launch [-chroot DIR] PROGRAM [ARGUMENT…]
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nodeagent/nodeagent/test/measure"
)

func main() {
	root := flag.String("chroot", "", "the program's root `folder`")
	flag.Parse()
	if flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "usage: launch [-chroot DIR] PROGRAM [ARGUMENT…]")
		os.Exit(64)
	}
	usage, err := run(*root, flag.Args())
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(usage)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "launch: run %q: %v\n", flag.Arg(0), err)
		os.Exit(1)
	}
}

func run(root string, args []string) (measure.Usage, error) {
	// The program goes with this one: the kernel sends the signal when the
	// thread ends that started it.
	runtime.LockOSThread()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if root != "" {
		cmd.Dir, cmd.SysProcAttr.Chroot = "/", root
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return measure.Usage{}, err
	}
	anon := follow(cmd.Process.Pid)
	if err := cmd.Wait(); err != nil {
		return measure.Usage{}, err
	}
	return measure.Usage{
		Wall:     time.Since(began),
		PeakAnon: anon.Load(),
		CPU:      cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(),
		Peak:     cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss * 1024,
	}, nil
}

// follow looks at a process's own memory until it is gone.
func follow(pid int) *atomic.Int64 {
	var peak atomic.Int64
	go func() {
		for {
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			_, anon, found := bytes.Cut(status, []byte("\nRssAnon:"))
			var kib int64
			if _, scanErr := fmt.Sscan(string(anon), &kib); err != nil || !found || scanErr != nil {
				return // a zombie has none
			}
			peak.Store(max(peak.Load(), kib*1024))
			time.Sleep(10 * time.Millisecond)
		}
	}()
	return &peak
}
