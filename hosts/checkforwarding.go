package hosts

// checkForwarding warns of a worker that is told not to pass packets on: its
// pods reach nothing beyond the host, and no Service of another's.
func (d *draft) checkForwarding() {
	pods := d.spec.Kubernetes.PodRange
	if !d.spec.Has(RoleWorker) || !pods.IsValid() {
		return
	}
	names := []string{forwardingIPv4, "net.ipv4.conf.all.forwarding"}
	if pods.Addr().Is6() {
		names = []string{forwardingIPv6}
	}
	for _, name := range names {
		if d.spec.Kernel.Sysctls[name] != "0" {
			continue
		}
		field := "kernel.sysctl." + name
		d.warn(d.file, d.tree.get("kernel.sysctl").table[name], field, "is 0 on the host %s, so that its pods reach nothing beyond the host: a worker passes their packets on", d.spec.Name)
	}
}
