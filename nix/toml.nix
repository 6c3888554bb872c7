# Writes attributes as TOML, one key a line in the order of names, so that a line
# number of the validator leads to one option. What is null is left out.
{ lib }:
let
  isTable = v: builtins.isAttrs v;
  said = lib.filterAttrs (_: v: v != null);
  key =
    name: if builtins.match "[A-Za-z0-9_-]+" name != null then name else builtins.toJSON name;
  dotted = path: builtins.concatStringsSep "." (map key path);

  # A value on one line. JSON's strings, numbers and booleans are TOML's.
  inline =
    v:
    if builtins.isList v then
      "[${lib.concatMapStringsSep ", " inline v}]"
    else if isTable v then
      "{ ${builtins.concatStringsSep ", " (lib.mapAttrsToList (n: x: "${key n} = ${inline x}") (said v))} }"
    else if builtins.isFloat v || builtins.isInt v || builtins.isBool v || builtins.isString v then
      builtins.toJSON v
    else
      throw "TOML has no ${builtins.typeOf v}; paths are written as strings, so that they are not copied into the store";

  # The keys of a table come before the tables in it.
  table =
    path: set:
    let
      all = said set;
      here = lib.filterAttrs (_: v: !isTable v) all;
      below = lib.filterAttrs (_: isTable) all;
    in
    lib.optionalString (path != [ ]) "\n[${dotted path}]\n"
    + builtins.concatStringsSep "" (lib.mapAttrsToList (n: v: "${key n} = ${inline v}\n") here)
    + builtins.concatStringsSep "" (lib.mapAttrsToList (n: v: table (path ++ [ n ]) v) below);
in
table [ ]
