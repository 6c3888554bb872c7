package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"runtime/debug"
	"strings"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/agent"
	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/netcfg"
)

func newWireGuard(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "wireguard",
		Short: "Print the host's WireGuard key, show its peers",
		Long: `wireguard prints the public half of the key that this host has in the mesh, and
shows how its peers are. Private and preshared keys are never printed.`,
		Example: `  nodeagent wireguard key               the line for the host's file of the fleet
  nodeagent wireguard show              peers, handshakes, traffic`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newWireGuardKey(o), newWireGuardShow(o), newWireGuardUserspace(o))
	return cmd
}

func newWireGuardKey(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Print the host's public key; make the key if there is none",
		Long: `key prints the public half of this host's WireGuard key. The private key is made if
there is none, stays on the host and is never printed. It needs no fleet: run it on
a new host and put the result into the host's file, table [wireguard], so that the
other hosts let this one in.`,
		Example: `  nodeagent wireguard key
  ssh host nodeagent wireguard key --json | jq -r .publicKey`,
		Args: noArgs,
	}
	asJSON := cmd.Flags().Bool("json", false, "print JSON, as -o json does")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		public, path, made, err := netcfg.WireGuardKey(cmd.Context(), "", o.wireGuardDevice())
		if errors.Is(err, fs.ErrPermission) {
			return withHint(err, "the key is root's: run this as root")
		}
		if err != nil {
			return err
		}
		if *asJSON || o.json() {
			return json.NewEncoder(o.stdout).Encode(wireGuardKey{public, path, made})
		}
		what := "the private key is in"
		if made {
			what = "made a private key, which stays in"
		}
		fmt.Fprintf(o.stderr, "%s %s\n", what, path)
		_, err = fmt.Fprintln(o.stdout, public)
		return err
	}
	return cmd
}

// wireGuardKey is what key prints as JSON.
type wireGuardKey struct {
	PublicKey string `json:"publicKey"`
	File      string `json:"file"` // of the private key
	Made      bool   `json:"made"`
}

// wireGuardDevice is the name of the spec's device, or where there is no fleet
// yet the default one.
func (o *options) wireGuardDevice() string {
	if w := o.knownSpec().Network.WireGuard; w != nil {
		return w.Interface
	}
	return "wg0"
}

// knownSpec is this host's spec, or an empty one where there is none: for
// commands that need no fleet but say more with it.
func (o *options) knownSpec() *hosts.Spec {
	if fleet, err := o.load(); err == nil {
		if name, err := o.hostName(); err == nil {
			if spec, err := fleet.Host(name); err == nil {
				return spec
			}
		}
	}
	return &hosts.Spec{}
}

func newWireGuardShow(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show the host's WireGuard devices and peers",
		Long: `show prints each WireGuard device of this host with its peers: where a peer was last
heard, how long ago it shook hands, the traffic with it, and the addresses that it may
send from. Names come from the fleet, where there is one.`,
		Example: `  nodeagent wireguard show
  nodeagent wireguard show --json | jq -r '.[].peers[] | select(.latestHandshake == null).name'`,
		Args: noArgs,
	}
	asJSON := cmd.Flags().Bool("json", false, "print JSON, as -o json does")
	cmd.RunE = func(*cobra.Command, []string) error {
		devices, err := netcfg.ShowWireGuard(o.knownSpec())
		if errors.Is(err, os.ErrPermission) {
			return withHint(err, "peers are shown to root alone")
		}
		if err != nil {
			return err
		}
		if *asJSON || o.json() {
			encoder := json.NewEncoder(o.stdout)
			encoder.SetIndent("", "  ")
			return encoder.Encode(devices)
		}
		return showDevices(o, devices, time.Now())
	}
	return cmd
}

func showDevices(o *options, devices []netcfg.WireGuardStatus, now time.Time) error {
	if len(devices) == 0 {
		_, err := fmt.Fprintln(o.stdout, "No WireGuard device.")
		return err
	}
	for _, d := range devices {
		where := "in the kernel"
		if d.Userspace {
			where = "in userspace"
		}
		fmt.Fprintf(o.stdout, "%s, %s, port %d, public key %s\n", d.Interface, where, d.Port, cmp.Or(d.PublicKey, "none"))
		rows := [][]string{{"peer", "endpoint", "handshake", "received", "sent", "allowed addresses"}}
		for _, p := range d.Peers {
			rows = append(rows, []string{
				cmp.Or(p.Name, p.PublicKey), cmp.Or(p.Endpoint, "-"), handshakeAge(p.Handshake, now),
				bytesWord(p.ReceivedBytes), bytesWord(p.SentBytes), prefixWords(p.Allowed),
			})
		}
		if err := newScreen(o.stdout).rows(rows); err != nil {
			return err
		}
	}
	return nil
}

// handshakeAge is how long ago a peer shook hands: "12s", "3m20s", "never".
func handshakeAge(at, now time.Time) string {
	if at.IsZero() {
		return "never"
	}
	return now.Sub(at).Truncate(time.Second).String()
}

func bytesWord(n int64) string {
	const step = 1024
	if n < step {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n)/step, "KiB"
	for _, u := range []string{"MiB", "GiB", "TiB"} {
		if value < step {
			break
		}
		value, unit = value/step, u
	}
	return fmt.Sprintf("%.1f %s", value, unit)
}

func prefixWords(list []netip.Prefix) string {
	if len(list) == 0 {
		return "-"
	}
	words := make([]string, len(list))
	for i, p := range list {
		words[i] = p.String()
	}
	return strings.Join(words, ",")
}

// newWireGuardUserspace is the service that serves a device where the kernel has
// no WireGuard; the network domain starts it.
func newWireGuardUserspace(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "userspace INTERFACE",
		Short: "Be a WireGuard device, where the kernel has no WireGuard",
		Long: `userspace serves a WireGuard device of the name until it is stopped. It is configured
over its socket /run/wireguard/INTERFACE.sock. The service nodeagent-wireguard.service
runs it, which nodeagent makes where the kernel has no WireGuard.`,
		Example: `  nodeagent wireguard userspace wg0`,
		Hidden:  true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{errors.New("name one interface: nodeagent wireguard userspace wg0")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			debug.SetGCPercent(100) // it lives long, unlike other commands
			log := logger(o.stderr)
			return netcfg.ServeWireGuard(cmd.Context(), args[0], log, func() {
				if _, err := sd.SdNotify(false, sd.SdNotifyReady); err != nil {
					log.Warn("telling systemd", "error", err)
				}
				go agent.FeedWatchdog(cmd.Context(), log, func(time.Time) bool {
					err := netcfg.DeviceAnswers(args[0])
					if err != nil {
						log.Warn("the device does not answer", "device", args[0], "error", err)
					}
					return err != nil
				})
			})
		},
	}
}
