# nodeagent in one file, for rescue media: the fleet is within the binary. It runs
# where there is neither a Nix store nor a file of the fleet.
{
  pkgs,
  lib ? pkgs.lib,
  fleet,
  package,
  validator,
}:
let
  source = if lib.isDerivation fleet then fleet else import ./fleet.nix { inherit lib fleet; };
  checked = pkgs.runCommand "checked-fleet" { } ''
    ${validator}/bin/nodeagent validate ${source}
    mkdir $out
    cp ${source}/*.toml $out/
  '';
in
package.override { fleet = checked; }
