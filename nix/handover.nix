# What NixOS owns on its hosts and the spec has a say in is set here, so that the
# two never undo each other: kernel modules and sysctls, the mode of /etc/hosts,
# whose links networkd, dhcpcd and NetworkManager leave alone, and, with
# openFirewall, what NixOS' firewall lets through.
{ spec }:
{ config, lib, ... }:
let
  inherit (lib) mkDefault mkIf mkOverride;
  cfg = config.services.nodeagent;
  own = spec.links ++ spec.wireguardLink;
  edited = spec.at [ "network" "hosts_file" ] false || spec.at [ "network" "hosts" ] { } != { };
in
{
  config = mkIf cfg.enable {
    boot.kernelModules = spec.modules;
    # Stronger than NixOS' own defaults, weaker than what an administrator says;
    # conflicts.nix has both agree.
    boot.kernel.sysctl = builtins.mapAttrs (_: mkOverride 900) spec.sysctl;

    # A link into the store cannot be edited. As a file of its own it holds NixOS'
    # entries after each activation, and nodeagent adds its block again.
    environment.etc.hosts = mkIf edited { mode = "0644"; };

    networking.dhcpcd.denyInterfaces = own ++ [
      "cni0"
      "veth*"
    ];
    networking.networkmanager.unmanaged = map (link: "interface-name:${link}") (own ++ [ "veth*" ] ++ spec.podLinks);
    # Otherwise networkd takes away, at each start, routes and rules that it did
    # not make.
    systemd.network.config.networkConfig = mkIf config.systemd.network.enable {
      ManageForeignRoutes = mkDefault false;
      ManageForeignRoutingPolicyRules = mkDefault false;
    };

    networking.firewall = mkIf cfg.openFirewall {
      allowedTCPPorts = spec.tcp;
      allowedUDPPorts = spec.udp;
      # What comes by these links nodeagent's own firewall judges.
      trustedInterfaces = spec.podLinks ++ lib.optionals spec.hasFirewall spec.wireguardLink;
      # Pods and peers answer by another link than packets to them came.
      checkReversePath = mkDefault "loose";
    };
  };
}
