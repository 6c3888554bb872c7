# A host of the fleet hosts/fleets/k8s-235 on NixOS. The fleet's files stay TOML;
# addresses of the machine itself come from NixOS, as the fleet says nothing of it.
{
  imports = [ ./machine.nix ];
  networking.hostName = "soarin";
  networking.firewall.enable = false; # nodeagent's is the one
  services.nodeagent = {
    enable = true;
    fleet = ../../hosts/fleets/k8s-235;
  };
}
