# The part of NixOS' module system that modules here need: options with types,
# defaults and merging, mkIf, mkMerge, mkOverride, imports.
lib:
let
  inherit (builtins)
    all
    attrNames
    concatMap
    concatStringsSep
    filter
    foldl'
    head
    isAttrs
    isFunction
    map
    mapAttrs
    ;
  defaultPriority = 100;
  optionDefault = 1500;
  is = type: value: isAttrs value && value._type or null == type;

  # Every module that is meant, those imported included, in the form
  # { file, options, config }.
  collect =
    args: modules:
    concatMap (
      module:
      let
        loaded = if builtins.isPath module || builtins.isString module then import module else module;
        value = if isFunction loaded then loaded args else loaded;
        long = value ? config || value ? options;
      in
      [
        {
          file = value._file or (if builtins.isPath module then toString module else "a module");
          options = value.options or { };
          config = if long then value.config or { } else removeAttrs value [ "imports" "_file" ];
        }
      ]
      ++ collect args (value.imports or [ ])
    ) modules;

  # Definitions of a set, conditions and merges carried down to its attributes.
  pushDown =
    config:
    if is "if" config then
      map (mapAttrs (
        _: content: {
          _type = "if";
          inherit (config) condition;
          inherit content;
        }
      )) (pushDown config.content)
    else if is "merge" config then
      concatMap pushDown config.contents
    else
      [ config ];

  # What a definition comes to: a list of { value, priority, file }.
  discharge =
    file: priority: value:
    if is "if" value then
      if value.condition then discharge file priority value.content else [ ]
    else if is "merge" value then
      concatMap (discharge file priority) value.contents
    else if is "override" value then
      discharge file value.priority value.content
    else
      [ { inherit file priority value; } ];

  name = concatStringsSep ".";

  evalOption =
    loc: option: defs:
    let
      given =
        concatMap (d: discharge d.file defaultPriority d.value) defs
        ++ lib.optionals (option ? default) (discharge "its default" optionDefault option.default);
      best = foldl' (lowest: d: if d.priority < lowest then d.priority else lowest) 9999 given;
      chosen = filter (d: d.priority == best) given;
      wrong = filter (d: !option.type.check d.value) chosen;
      value =
        if given == [ ] then
          throw "The option `${name loc}' was accessed but has no value defined."
        else if wrong != [ ] then
          throw "A definition for option `${name loc}' is not of type `${option.type.description}'. Definition values: ${builtins.toJSON (map (d: if isFunction d.value then "a function" else d.value) wrong)} in ${(head wrong).file}"
        else
          option.type.merge loc chosen;
    in
    (option.apply or (v: v)) value;

  # Joins option trees of modules with the definitions for them.
  evalTree =
    loc: trees: defs:
    let
      options = filter (is "option") trees;
      names = lib.unique (concatMap attrNames trees);
      configs = concatMap (d: map (set: { inherit (d) file; inherit set; }) (pushDown d.value)) defs;
      unknown = concatMap (
        d: map (n: { inherit (d) file; inherit n; }) (filter (n: !builtins.elem n names) (attrNames d.set))
      ) configs;
    in
    if options != [ ] then
      evalOption loc (head options) defs
    else if unknown != [ ] then
      throw "The option `${name (loc ++ [ (head unknown).n ])}' does not exist. Defined in ${(head unknown).file}"
    else
      lib.genAttrs names (
        n:
        evalTree (loc ++ [ n ]) (map (t: t.${n}) (filter (t: t ? ${n}) trees)) (
          map (d: {
            inherit (d) file;
            value = d.set.${n};
          }) (filter (d: d.set ? ${n}) configs)
        )
      );
in
{
  inherit discharge;

  evalModules =
    {
      modules,
      specialArgs ? { },
      prefix ? [ ],
    }:
    let
      args = {
        inherit lib config;
        options = throw "the stand-in has no options";
      } // specialArgs;
      found = collect args modules;
      config = evalTree prefix (map (m: m.options) found) (
        map (m: {
          inherit (m) file;
          value = m.config;
        }) found
      );
    in
    {
      inherit config;
    };

  mkOption = option: { type = lib.types.anything; } // option // { _type = "option"; };
  mkEnableOption =
    what:
    {
      _type = "option";
      type = lib.types.bool;
      default = false;
      description = "Whether to enable ${what}.";
    };
  mkIf = condition: content: {
    _type = "if";
    inherit condition content;
  };
  mkMerge = contents: {
    _type = "merge";
    inherit contents;
  };
  mkOverride = priority: content: {
    _type = "override";
    inherit priority content;
  };
  mkDefault = content: {
    _type = "override";
    priority = 1000;
    inherit content;
  };
  mkForce = content: {
    _type = "override";
    priority = 50;
    inherit content;
  };
}
