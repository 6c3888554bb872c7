// Command launch runs a program and prints what it took, a [measure.Usage] in
// one line of JSON, to standard output; what the program prints goes to standard
// error.
//
//	launch [-chroot DIR] PROGRAM [ARGUMENT…]
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
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
	if err := cmd.Run(); err != nil {
		return measure.Usage{}, err
	}
	return measure.Usage{
		Wall: time.Since(began),
		CPU:  cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(),
		Peak: cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss * 1024,
	}, nil
}
