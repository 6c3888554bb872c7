# Option types: whether a value is of the type, and how several definitions
# become one value.
lib:
let
  inherit (builtins)
    all
    attrNames
    concatMap
    elem
    filter
    head
    isAttrs
    isBool
    isFunction
    isInt
    isList
    isPath
    isString
    length
    map
    ;
  values = map (d: d.value);
  say = builtins.concatStringsSep ".";

  # Several definitions must agree.
  equal =
    loc: defs:
    if all (v: v == (head defs).value) (values defs) then
      (head defs).value
    else
      throw "The option `${say loc}' has conflicting definition values: ${builtins.toJSON (values defs)}";
  plain = description: check: {
    inherit description check;
    merge = equal;
  };
  at =
    name: defs:
    concatMap (d: lib.optional (d.value ? ${name}) (d // { value = d.value.${name}; })) defs;
  # One value by the type's own rules, conditions and priorities included.
  merged =
    loc: type: defs:
    let
      last = builtins.elemAt loc (length loc - 1);
    in
    (lib.evalModules {
      modules = [ { options.${last} = lib.mkOption { inherit type; }; } ] ++ map (d: {
        _file = d.file;
        config.${last} = d.value;
      }) defs;
      prefix = builtins.genList (builtins.elemAt loc) (length loc - 1);
    }).config.${last};

  types = {
    anything = {
      description = "anything";
      check = _: true;
      merge =
        loc: defs:
        if all (v: isAttrs v && !lib.isDerivation v && !v ? _type) (values defs) then
          (types.attrsOf types.anything).merge loc defs
        else if all isList (values defs) && length defs > 1 then
          builtins.concatLists (values defs)
        else
          equal loc defs;
    };
    raw = plain "raw value" (_: true);
    bool = plain "boolean" isBool;
    int = plain "signed integer" isInt;
    str = plain "string" isString;
    strMatching =
      pattern:
      plain "string matching the pattern ${pattern}" (v: isString v && builtins.match pattern v != null);
    float = plain "floating point number" builtins.isFloat;
    lines = types.str // {
      merge = _: defs: builtins.concatStringsSep "\n" (values defs);
    };
    path = plain "absolute path" (
      v: isPath v || lib.isDerivation v || isString v && lib.hasPrefix "/" v
    );
    package = plain "package" (v: lib.isDerivation v || types.path.check v);
    port = types.ints.between 0 65535;
    ints.between =
      low: high:
      plain "integer between ${toString low} and ${toString high} (both inclusive)" (
        v: isInt v && low <= v && v <= high
      );
    enum = words: plain "one of ${builtins.toJSON words}" (v: elem v words);
    nullOr = type: {
      description = "null or ${type.description}";
      check = v: v == null || type.check v;
      merge = loc: defs: if all (v: v == null) (values defs) then null else type.merge loc defs;
    };
    oneOf = alternatives: {
      description = builtins.concatStringsSep " or " (map (t: t.description) alternatives);
      check = v: builtins.any (t: t.check v) alternatives;
      merge =
        loc: defs:
        (head (filter (t: all t.check (values defs)) alternatives ++ [ (plain "one type" (_: true)) ])).merge loc defs;
    };
    either = a: b: types.oneOf [ a b ];
    listOf = type: {
      description = "list of ${type.description}";
      check = isList;
      merge =
        loc: defs:
        concatMap (d: map (value: merged loc type [ (d // { inherit value; }) ]) d.value) defs;
    };
    attrsOf = type: {
      description = "attribute set of ${type.description}";
      check = isAttrs;
      merge =
        loc: defs:
        lib.genAttrs
          (filter (name: concatMap (d: lib.discharge d.file 100 d.value) (at name defs) != [ ]) (
            lib.unique (concatMap attrNames (values defs))
          ))
          (name: merged (loc ++ [ name ]) type (at name defs));
    };
    attrs = types.attrsOf types.anything;
    submodule = module: {
      description = "submodule";
      check = v: isAttrs v || isFunction v;
      merge =
        loc: defs:
        (lib.evalModules {
          modules = [ module ] ++ map (d: if isFunction d.value then d.value else { _file = d.file; config = d.value; }) defs;
          specialArgs.name = lib.optionalString (loc != [ ]) (builtins.elemAt loc (length loc - 1));
          prefix = loc;
        }).config;
    };
  };
in
types
