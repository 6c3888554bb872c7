// Command measure runs a program and says what it took, for benchmarks.
//
//	measure -chroot DIR PROGRAM ARGUMENT…
//
// A benchmark cannot ask for itself: at execve(2) Linux counts the memory of
// the process that started the program to the program's peak, and a test binary
// is larger than what it measures. This one is small.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// Usage is what a process took, as it is printed, in one line of JSON, to
// standard output; what the program prints goes to standard error.
type Usage struct {
	Wall time.Duration `json:"wall"`
	CPU  time.Duration `json:"cpu"`
	Peak int64         `json:"peak"` // bytes of resident memory
}

func main() {
	root := flag.String("chroot", "", "the program's root `folder`")
	flag.Parse()
	if flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "usage: measure [-chroot DIR] PROGRAM [ARGUMENT…]")
		os.Exit(64)
	}
	usage, err := run(*root, flag.Args())
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(usage)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "measure: run %q: %v\n", flag.Arg(0), err)
		os.Exit(1)
	}
}

func run(root string, args []string) (Usage, error) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if root != "" {
		cmd.Dir, cmd.SysProcAttr = "/", &syscall.SysProcAttr{Chroot: root}
	}
	began := time.Now()
	if err := cmd.Run(); err != nil {
		return Usage{}, err
	}
	return Usage{
		Wall: time.Since(began),
		CPU:  cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(),
		Peak: cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss * 1024,
	}, nil
}
