package units

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	godbus "github.com/godbus/dbus/v5"
)

// dialTimeout is how long a bus that accepts connections may take to answer.
const dialTimeout = 10 * time.Second

// privateSocket is where systemd itself listens, for root only.
const privateSocket = "unix:path=/run/systemd/private"

// dial connects to systemd: over the system bus, or directly where there is no
// bus, or none that systemd is connected to. ctx ends the attempt but not the
// connection.
func dial(ctx context.Context) (conn *godbus.Conn, direct bool, err error) {
	conn, busErr := within(ctx, dialBus)
	if busErr == nil {
		return conn, false, nil
	}
	conn, err = within(ctx, dialPrivate)
	if err != nil {
		return nil, false, fmt.Errorf("connect to systemd, which must be this host's process 1 (over the system bus: %w; directly, which takes root: %w)", busErr, err)
	}
	return conn, true, nil
}

// within connects in at most dialTimeout. The context that connect takes is the
// connection's whole life, so that ctx may only end it until it stands.
func within(ctx context.Context, connect func(context.Context) (*godbus.Conn, error)) (*godbus.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	life, end := context.WithCancel(context.Background())
	keep := context.AfterFunc(ctx, end)
	conn, err := connect(life)
	if err == nil && !keep() {
		err = context.Cause(ctx)
	}
	if err != nil {
		end() // closes a connection that was made too late
		return nil, err
	}
	return conn, nil
}

// dialBus connects to the system bus. A bus that has just been started may be
// there before systemd is: a call would then wait until systemd comes, perhaps
// for ever.
func dialBus(life context.Context) (*godbus.Conn, error) {
	conn, err := godbus.ConnectSystemBus(godbus.WithContext(life))
	if err != nil {
		return nil, err
	}
	var present bool
	if err := conn.BusObject().Call(busIface+".NameHasOwner", 0, systemdName).Store(&present); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if !present {
		return nil, errors.Join(errors.New("systemd is not on the bus"), conn.Close())
	}
	return conn, nil
}

func dialPrivate(life context.Context) (*godbus.Conn, error) {
	conn, err := godbus.Dial(privateSocket, godbus.WithContext(life))
	if err != nil {
		return nil, err
	}
	// The user's number and not its name, which would take a look-up.
	if err := conn.Auth([]godbus.Auth{godbus.AuthExternal(strconv.Itoa(os.Getuid()))}); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if err := wake(life, conn); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// wakePause is how long systemd may take to answer before it is asked again.
const wakePause = 100 * time.Millisecond

// wake asks systemd for a sign of life until it gives one. When the first
// message reaches its private socket in one piece with the end of the
// authentication, systemd (252 at least) takes notice of it only when the next
// one comes: a first call would be waited for for ever.
func wake(life context.Context, conn *godbus.Conn) error {
	for {
		ctx, cancel := context.WithTimeout(life, wakePause)
		err := conn.Object(systemdName, systemdPath).CallWithContext(ctx, "org.freedesktop.DBus.Peer.Ping", 0).Err
		cancel()
		if err == nil || life.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
	}
}
