#!/bin/sh
# Runs first at the boot of a lab host. The host is a container on a machine
# that it must not change; a server under nodeagent is neither.
set -eu

# The kubelet and runc make control groups. The host's groups are its own part
# of each hierarchy, but cgroup v1 hierarchies come read-only.
while read -r _ folder type _; do
	if [ "$type" = cgroup ]; then
		mount -o remount,bind,rw "$folder"
	fi
done </proc/self/mounts

# The kubelet and nodeagent set sysctls. Those of the network are the host's
# own; the others (kernel, vm, fs) are the machine's and there is no namespace
# for them. The host gets a copy to write to and to read back: what it sets is
# seen by everything on the host, and by nothing on the machine.
own=/run/lab/sysctl
mkdir -p "$own"
mount -t tmpfs -o mode=0755,size=1m lab-sysctl "$own"
for tree in kernel vm fs; do
	cd "/proc/sys/$tree"
	find . -type d -exec mkdir -p "$own/$tree/{}" \;
	find . -type f ! -path './random/*' | while read -r file; do
		# Some are for writing only; their copy starts empty.
		cat "$file" >"$own/$tree/$file" 2>/dev/null || :
	done
done
# Not settings but sources: new ids, this boot's id.
mount --rbind /proc/sys/kernel/random "$own/kernel/random"
# The host's own, and announced to those that watch them.
for name in hostname domainname; do
	mount --bind "/proc/sys/kernel/$name" "$own/kernel/$name"
	mount -o remount,bind,rw "$own/kernel/$name"
done
cd /
for tree in kernel vm fs; do
	mount --rbind "$own/$tree" "/proc/sys/$tree"
done
