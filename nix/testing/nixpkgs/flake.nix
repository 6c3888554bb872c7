# A stand-in for nixpkgs, for tests without a network: as much as nodeagent's
# flake uses, and no more. Packages are empty but for nodeagent, which is built
# with the machine's own Go. Nothing in it is of use elsewhere.
{
  outputs =
    { self }:
    let
      lib = import ./lib.nix // {
        nixosSystem = import ./nixos.nix { inherit lib pkgsFor; };
      };
      pkgsFor = system: import ./pkgs.nix { inherit lib system; };
    in
    {
      inherit lib;
      legacyPackages = lib.genAttrs [
        "x86_64-linux"
        "aarch64-linux"
      ] pkgsFor;
    };
}
