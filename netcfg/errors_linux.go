package netcfg

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// hint says what to do about an error number.
type hint struct {
	errno error
	text  string
}

// commonHints hold wherever no hint of the call itself does.
var commonHints = []hint{
	{unix.EPERM, "changing the network needs root (CAP_NET_ADMIN in the network namespace)"},
	{unix.EACCES, "changing the network needs root (CAP_NET_ADMIN in the network namespace)"},
	{unix.ENODEV, "the link is gone; plan again"},
	{unix.EBUSY, "somebody else holds it; see ip -d link show"},
	{unix.ENOBUFS, "the kernel is out of memory for network state"},
	{unix.ENOMEM, "the kernel is out of memory"},
	{unix.EAGAIN, "the kernel did not answer in time; try again"},
	{unix.EAFNOSUPPORT, "the kernel does not speak this address family"},
	{unix.EOPNOTSUPP, "the kernel or the link's driver cannot do this"},
}

// explain adds to an error what to do about it; the call's own hints come
// before the common ones.
func explain(err error, hints ...hint) error {
	if err == nil {
		return nil
	}
	for _, list := range [][]hint{hints, commonHints} {
		for _, h := range list {
			if errors.Is(err, h.errno) {
				return fmt.Errorf("%w: %s", err, h.text)
			}
		}
	}
	return err
}
