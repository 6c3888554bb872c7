# A NixOS host in a virtual machine: nodeagent makes its network and firewall, and
# runs etcd and the control plane, all from nixpkgs. Without a network there are no
# images, so that no pod runs.
{ pkgs, self }:
pkgs.testers.runNixOSTest {
  name = "nodeagent";
  nodes.mercury = {
    imports = [ self.nixosModules.default ];
    networking.useDHCP = false;
    networking.firewall.enable = false;
    virtualisation.memorySize = 3072;
    services.nodeagent = {
      enable = true;
      settings = {
        shared = {
          cluster.name = "mercury";
          kubernetes = {
            version = pkgs.kubernetes.version;
            pod_range = "10.244.0.0/16";
            service_range = "10.96.0.0/12";
            cni = "none";
          };
          pki.issuer = "local";
          network.hosts_file = true;
        };
        hosts.mercury = {
          host = {
            roles = [
              "control-plane"
              "etcd"
            ];
            address = "192.0.2.10";
          };
          network.link.dummy0 = {
            kind = "dummy";
            addresses = [ "192.0.2.10/24" ];
          };
        };
      };
    };
  };
  testScript = ''
    import json

    mercury.wait_for_unit("nodeagent.service")
    mercury.succeed("ip address show dummy0 | grep 192.0.2.10/24")
    mercury.succeed("grep 'nodeagent begin' /etc/hosts")
    with subtest("units lie where they can be written"):
        mercury.succeed("test -e /run/systemd/system/nodeagent-etcd.service")
        mercury.fail("test -w /etc/systemd/system")
    with subtest("etcd and the control plane answer"):
        mercury.wait_until_succeeds("nodeagent status --exit-code", timeout=300)
        status = json.loads(mercury.succeed("nodeagent status -o json"))
        assert status["etcd"]["healthy"], status["etcd"]
        assert status["fleet"].startswith("/nix/store/"), status["fleet"]
    with subtest("a reload keeps every process"):
        pids = "systemctl show -P MainPID nodeagent nodeagent-etcd nodeagent-kube-apiserver"
        before = mercury.succeed(pids)
        mercury.succeed("systemctl reload nodeagent")
        mercury.wait_until_succeeds("nodeagent status --exit-code", timeout=120)
        assert mercury.succeed(pids) == before
  '';
}
