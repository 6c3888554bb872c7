# nodeagent for one host: a wrapper of the one binary that knows the fleet's store
# path. The build validates the fleet, on the build platform, and fails with the
# validator's lines. The wrapper is a few lines of shell: another host or another
# fleet compiles nothing.
{
  pkgs,
  lib ? pkgs.lib,
  # The folder of the fleet's TOML files, or a derivation that makes one.
  fleet,
  # The host's name in the fleet; null for the machine's own name.
  host ? null,
  # Folders of programs, for fleets that name none.
  binaries ? null,
  cniBinaries ? null,
  # The nodeagent to run, and one that runs on the build platform.
  package,
  validator,
}:
let
  source = if lib.isDerivation fleet then fleet else import ./fleet.nix { inherit lib fleet; };
  set =
    name: value: lib.optionalString (value != null) "export ${name}=\${${name}-${toString value}}\n";
  wrapper = pkgs.writeText "nodeagent" ''
    #!${pkgs.runtimeShell}
    ${set "NODEAGENT_FLEET" source}${set "NODEAGENT_HOST" host}${set "NODEAGENT_BINARIES" binaries}${set "NODEAGENT_CNI_BINARIES" cniBinaries}exec ${package}/bin/nodeagent "$@"
  '';
  known = lib.optionalString (!lib.isDerivation fleet && host != null) (
    if builtins.pathExists (fleet + "/${host}.toml") then
      ""
    else
      throw "mkNodeagent: the fleet ${toString fleet} has no ${host}.toml; host names one of its hosts"
  );
in
pkgs.runCommand "nodeagent-${if host == null then "fleet" else host}${known}"
  {
    passthru = {
      inherit package host;
      fleet = source;
    };
    meta.mainProgram = "nodeagent";
  }
  ''
    ${validator}/bin/nodeagent validate ${source}
    mkdir -p $out/bin
    cp ${wrapper} $out/bin/nodeagent
    chmod 755 $out/bin/nodeagent
    if [ -d ${package}/share ]; then ln -s ${package}/share $out/share; fi
  ''
