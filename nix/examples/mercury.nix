# The fleet hosts/fleets/mercury, a whole cluster on one server, in Nix instead of
# TOML. A test holds the two together.
{
  imports = [ ./machine.nix ];
  networking.hostName = "mercury";
  networking.useDHCP = false; # the spec configures eth0
  networking.firewall.enable = false; # and the firewall
  services.nodeagent = {
    enable = true;
    settings = {
      shared = {
        cluster.name = "mercury";
        kernel.modules = [
          "br_netfilter"
          "overlay"
        ];
        kubernetes = {
          version = "1.36.3";
          pod_range = "10.244.0.0/16";
          service_range = "10.96.0.0/12";
          pod_mtu = 1450;
        };
        pki = {
          issuer = "local";
          renew_before = "720h";
        };
        firewall.allow = {
          api.ports = [ 6443 ];
          http.ports = [
            80
            443
          ];
          ssh = {
            ports = [ 22 ];
            from = [ "198.51.100.0/24" ];
          };
        };
        snapshots = {
          schedule = "*-*-* 00/6:00:00";
          keep = 28;
        };
      };
      hosts.mercury = {
        host = {
          roles = [
            "control-plane"
            "etcd"
            "worker"
          ];
          address = "203.0.113.10";
        };
        network = {
          link.eth0.addresses = [ "203.0.113.10/24" ];
          route = [
            {
              destination = "default";
              via = "203.0.113.1";
              device = "eth0";
            }
          ];
        };
      };
    };
  };
}
