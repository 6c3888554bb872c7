# The TOML files of a fleet's folder, and nothing else of it, as a store path. It
# depends on their content alone, and so names the configuration.
{ lib, fleet }:
builtins.path {
  path = fleet;
  name = "fleet";
  filter =
    path: type:
    type == "directory" && toString path == toString fleet
    || type != "directory" && lib.hasSuffix ".toml" path && !lib.hasPrefix "." (baseNameOf path);
}
