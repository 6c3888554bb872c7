# What the examples need to be whole systems.
{
  nixpkgs.hostPlatform = "x86_64-linux";
  system.stateVersion = "26.05";
  boot.loader.systemd-boot.enable = true;
  fileSystems."/" = {
    device = "/dev/disk/by-label/nixos";
    fsType = "ext4";
  };
  fileSystems."/boot" = {
    device = "/dev/disk/by-label/boot";
    fsType = "vfat";
  };
  services.openssh.enable = true;
}
