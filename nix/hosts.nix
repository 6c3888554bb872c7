# The hosts of fleets: the folder by the host's name. Two fleets with a host of
# the same name could not both have a package host-<name>.
{ lib, fleets }:
let
  hostsOf =
    fleet:
    map (lib.removeSuffix ".toml") (
      builtins.filter (file: lib.hasSuffix ".toml" file && file != "cluster.toml") (
        builtins.attrNames (builtins.readDir fleet)
      )
    );
  add =
    all: name:
    let
      more = lib.genAttrs (hostsOf fleets.${name}) (_: fleets.${name});
      twice = builtins.attrNames (builtins.intersectAttrs all more);
    in
    if twice == [ ] then
      all // more
    else
      throw "fleet ${name} has a host ${builtins.head twice}, and so has another fleet: packages are named by hosts";
in
builtins.foldl' add { } (builtins.attrNames fleets)
