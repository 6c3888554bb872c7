// Command guestd runs in the virtual machines that the tests boot, as a service
// of systemd's, and does what the test asks for over the second serial port.
// The first one is the kernel's console.
package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// port is the serial port to the test.
const port = "/dev/ttyS1"

func main() {
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, "guestd:", err)
		os.Exit(1)
	}
	if err := serve(port); err != nil {
		fmt.Fprintln(os.Stderr, "guestd:", err)
		os.Exit(1)
	}
}

// prepare makes what udev makes for the modules that are loaded when their
// device is opened, and a /tmp.
func prepare() error {
	if err := os.MkdirAll("/dev/net", 0o755); err != nil {
		return err
	}
	if err := unix.Mknod("/dev/net/tun", unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))); err != nil && !os.IsExist(err) {
		return fmt.Errorf("make /dev/net/tun: %w", err)
	}
	return os.Chmod("/tmp", 0o777|os.ModeSticky)
}

func powerOff() {
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Fprintln(os.Stderr, "guestd: power off:", err)
	}
}
