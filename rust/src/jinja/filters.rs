//! Jinja2's filters and tests, with `tojson` as Transformers has it.

use std::cmp::Ordering;

use super::eval::{Args, Interpreter};
use super::methods::{capitalize, is_space, lines, pad, replace, strip};
use super::ops::{attribute, item, math, ordered};
use super::value::{charge, charge_chars, check_width, compare, contains, equal, Buffer, Key, Kind, Result, Text, Value};
use super::{markup, write};

const FILTERS: [&str; 49] = [
    "abs", "attr", "batch", "capitalize", "center", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "forceescape", "format", "groupby",
    "indent", "int", "items", "join", "last", "length", "list", "lower", "map", "max", "min", "pprint", "reject", "rejectattr", "replace", "reverse", "round",
    "safe", "select", "selectattr", "slice", "sort", "string", "striptags", "sum", "title", "tojson", "trim", "truncate", "unique", "upper", "urlencode",
    "wordcount",
];

const TESTS: [&str; 39] = [
    "defined", "undefined", "none", "boolean", "true", "false", "integer", "float", "number", "string", "mapping", "sequence", "iterable", "callable", "odd",
    "even", "divisibleby", "lower", "upper", "sameas", "escaped", "in", "filter", "test", "eq", "equalto", "==", "ne", "!=", "lt", "lessthan", "<", "le", "<=",
    "gt", "greaterthan", ">", "ge", ">=",
];

pub fn is_lower(s: &str) -> bool {
    s.chars().any(char::is_lowercase) && !s.chars().any(char::is_uppercase)
}

pub fn is_upper(s: &str) -> bool {
    s.chars().any(char::is_uppercase) && !s.chars().any(char::is_lowercase)
}

pub fn test(name: &str, v: &Value, args: &Args) -> Result<bool> {
    let sign = match name {
        "eq" | "equalto" | "==" => "==",
        "ne" | "!=" => "!=",
        "lt" | "lessthan" | "<" => "<",
        "le" | "<=" => "<=",
        "gt" | "greaterthan" | ">" => ">",
        "ge" | ">=" => ">=",
        _ => "",
    };
    let operand = || args.take(["other"]).and_then(|[other]| other.ok_or_else(|| format!("the test '{name}' wants an argument")));
    if !sign.is_empty() {
        let other = operand()?;
        return match sign {
            "==" => equal(v, &other),
            "!=" => equal(v, &other).map(|same| !same),
            sign => ordered(sign, v, &other),
        };
    }
    Ok(match name {
        "defined" => !v.is_undefined(),
        "undefined" => v.is_undefined(),
        "none" => matches!(v, Value::None),
        "boolean" => matches!(v, Value::Bool(_)),
        "true" => matches!(v, Value::Bool(true)),
        "false" => matches!(v, Value::Bool(false)),
        "integer" => matches!(v, Value::Int(_)),
        "float" => matches!(v, Value::Float(_)),
        "number" => matches!(v, Value::Int(_) | Value::Float(_) | Value::Bool(_)),
        "string" => matches!(v, Value::Str(_)),
        "mapping" => matches!(v, Value::Dict(_)),
        "sequence" => match v {
            Value::Seq(s) => matches!(s.kind, Kind::List | Kind::Tuple | Kind::Range(..)),
            v => matches!(v, Value::Undefined(_) | Value::Str(_) | Value::Dict(_)),
        },
        "iterable" => matches!(v, Value::Undefined(_) | Value::Str(_) | Value::Seq(_) | Value::Dict(_) | Value::Loop(_)),
        "callable" => matches!(v, Value::Macro(_) | Value::Function(_) | Value::Method(_) | Value::Loop(_) | Value::Joiner(_)),
        "odd" => math("%", v, &Value::Int(2))?.as_float() == Some(1.0),
        "even" => math("%", v, &Value::Int(2))?.as_float() == Some(0.0),
        "divisibleby" => math("%", v, &operand()?)?.as_float() == Some(0.0),
        "lower" => is_lower(&write::str(v)?),
        "upper" => is_upper(&write::str(v)?),
        "sameas" => v.is_same(&operand()?),
        "escaped" => matches!(v, Value::Str(s) if s.is_markup()),
        "in" => contains(&operand()?, v)?,
        "filter" => v.as_str().is_some_and(|s| FILTERS.contains(&s)),
        "test" => v.as_str().is_some_and(|s| TESTS.contains(&s)),
        _ => return Err(format!("No test named '{name}'.")),
    })
}

fn is_true(v: &Option<Value>) -> bool {
    v.as_ref().is_some_and(Value::is_true)
}

fn text(v: &Option<Value>, otherwise: &str) -> Result<String> {
    v.as_ref().map_or(Ok(otherwise.to_string()), write::str)
}

fn number(v: &Option<Value>, otherwise: i64) -> Result<i64> {
    v.as_ref().filter(|v| !matches!(v, Value::None)).map_or(Ok(otherwise), Value::int)
}

/// Python's int(text), with signs, white space and underscores between digits.
fn integer(s: &str) -> Option<i128> {
    let s = s.trim_matches(is_space);
    if s.starts_with('_') || s.ends_with('_') || s.contains("__") {
        return None;
    }
    s.replace('_', "").parse().ok()
}

fn float(s: &str) -> Option<f64> {
    let s = s.trim_matches(is_space).to_ascii_lowercase();
    match s.trim_start_matches(['+', '-']) {
        "inf" | "infinity" => Some(if s.starts_with('-') { f64::NEG_INFINITY } else { f64::INFINITY }),
        "nan" => Some(f64::NAN),
        _ => s.parse().ok(),
    }
}

/// A value by "a.b.0": items, then attributes.
fn by_path(v: &Value, path: &Value, otherwise: &Option<Value>) -> Result<Value> {
    let mut v = v.clone();
    let parts: Vec<Value> = match path {
        Value::Str(s) => s.split('.').map(|part| part.parse::<i128>().map_or_else(|_| Value::text(part), |i| Ok(Value::Int(i)))).collect::<Result<_>>()?,
        path => vec![path.clone()],
    };
    for part in parts {
        charge(1)?;
        v = item(&v, &part)?;
        if let (Value::Undefined(_), Some(otherwise)) = (&v, otherwise) {
            v = otherwise.clone();
        }
    }
    Ok(v)
}

/// Texts compare without regard to their case unless they are told to.
fn folded(v: Value, case_sensitive: bool) -> Result<Value> {
    match v {
        Value::Str(s) if !case_sensitive => {
            charge_chars(s.len())?;
            Value::text(s.to_lowercase())
        }
        v => Ok(v),
    }
}

/// The items with their keys to sort by. Several attributes stand in one text with commas between.
fn keyed(items: &[Value], attribute: &Option<Value>, case_sensitive: bool, otherwise: &Option<Value>) -> Result<Vec<(Value, Value)>> {
    let paths: Vec<Value> = match attribute {
        None | Some(Value::None) => Vec::new(),
        Some(Value::Str(s)) => s.split(',').map(|path| Value::text(path.trim())).collect::<Result<_>>()?,
        Some(path) => vec![path.clone()],
    };
    let mut keyed = Vec::new();
    for v in items {
        let key = match &paths[..] {
            [] => folded(v.clone(), case_sensitive)?,
            [path] => folded(by_path(v, path, otherwise)?, case_sensitive)?,
            paths => Value::list(paths.iter().map(|path| folded(by_path(v, path, otherwise)?, case_sensitive)).collect::<Result<_>>()?)?,
        };
        keyed.push((key, v.clone()));
    }
    Ok(keyed)
}

fn less(a: &Value, b: &Value) -> Result<Ordering> {
    compare(a, b, "<")
}

/// As elements of lists, which compare only where they differ.
fn less_unless_equal(a: &Value, b: &Value) -> Result<Ordering> {
    if equal(a, b)? { Ok(Ordering::Equal) } else { less(a, b) }
}

fn sort_by_key(keyed: &mut [(Value, Value)], order: fn(&Value, &Value) -> Result<Ordering>) -> Result<()> {
    let mut failed = None;
    keyed.sort_by(|a, b| {
        if failed.is_some() {
            return Ordering::Equal;
        }
        order(&a.0, &b.0).unwrap_or_else(|e| {
            failed = Some(e);
            Ordering::Equal
        })
    });
    failed.map_or(Ok(()), Err)
}

fn reversed(mut items: Vec<(Value, Value)>) -> Vec<(Value, Value)> {
    // As Python's reverse=True, which keeps the order of equal ones.
    let mut out = Vec::with_capacity(items.len());
    while let Some(last) = items.last() {
        let begin = items.iter().rposition(|(key, _)| !equal(key, &last.0).unwrap_or(false)).map_or(0, |at| at + 1);
        out.extend(items.drain(begin..));
    }
    out
}

fn values(keyed: Vec<(Value, Value)>) -> Vec<Value> {
    keyed.into_iter().map(|(_, v)| v).collect()
}

fn tojson(v: &Value, args: &Args) -> Result<Value> {
    let [ensure_ascii, indent, separators, sort_keys] = args.take(["ensure_ascii", "indent", "separators", "sort_keys"])?;
    let indent = match indent {
        None | Some(Value::None) => None,
        Some(Value::Str(s)) => {
            check_width("an indent", s.len())?;
            Some(s.to_string())
        }
        Some(v) => Some(" ".repeat(v.int()?.clamp(0, 64) as usize)),
    };
    let mut style = write::JsonStyle {
        item: if indent.is_some() { "," } else { ", " }.to_string(),
        colon: ": ".to_string(),
        indent,
        ensure_ascii: is_true(&ensure_ascii),
        sort_keys: is_true(&sort_keys),
    };
    if let Some(s) = separators.filter(|v| !matches!(v, Value::None)) {
        let s = s.items()?;
        let [a, b] = &s.items[..] else { return Err("separators are a pair of texts".to_string()) };
        (style.item, style.colon) = (write::str(a)?, write::str(b)?);
    }
    let mut out = Buffer::default();
    write::json(&mut out, v, &style, 0)?;
    Value::text(out.finish())
}

/// Digits that are cut off round half to even, as Python's round() does on the exact value of the float.
fn round(v: &Value, args: &Args) -> Result<Value> {
    let [precision, method] = args.take(["precision", "method"])?;
    let (precision, method) = (number(&precision, 0)?.clamp(-400, 400) as i32, text(&method, "common")?);
    v.defined()?;
    let f = v.as_float().ok_or_else(|| format!("type {} doesn't define __round__ method", v.type_name()))?;
    let scale = 10f64.powi(precision);
    match method.as_str() {
        "common" => match v.as_int() {
            Some(i) if precision >= 0 => Ok(Value::Int(i)),
            Some(_) => Ok(Value::Int(((f * scale).round_ties_even() / scale) as i128)),
            None if precision >= 0 && f.is_finite() => Ok(Value::Float(format!("{f:.*}", precision as usize).parse().unwrap_or(f))),
            None => Ok(Value::Float((f * scale).round_ties_even() / scale)),
        },
        "ceil" => Ok(Value::Float((f * scale).ceil() / scale)),
        "floor" => Ok(Value::Float((f * scale).floor() / scale)),
        _ => Err("method must be common, ceil or floor".to_string()),
    }
}

fn truncate(v: &Value, args: &Args) -> Result<Value> {
    let [length, killwords, end, leeway] = args.take(["length", "killwords", "end", "leeway"])?;
    let (s, end) = (write::str(v)?, text(&end, "...")?);
    charge_chars(s.len())?;
    let (length, leeway) = (number(&length, 255)?.max(0) as usize, number(&leeway, 5)?.max(0) as usize);
    if s.chars().count() <= length.saturating_add(leeway) {
        return Value::text(s);
    }
    let end_length = end.chars().count();
    let most = length.checked_sub(end_length).ok_or_else(|| format!("expected length >= {end_length}, got {length}"))?;
    let cut: String = s.chars().take(most).collect();
    Value::text(if is_true(&killwords) { cut + &end } else { cut.rsplit_once(' ').map_or(cut.as_str(), |(before, _)| before).to_string() + &end })
}

/// urllib's quote; of a mapping or pairs, a query.
fn urlencode(v: &Value) -> Result<Value> {
    fn quote(out: &mut Buffer, v: &Value, in_query: bool) -> Result<()> {
        let s = write::str(v)?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-~".contains(&b) || (b == b'/' && !in_query);
        let mut rest = s.as_bytes();
        while !rest.is_empty() {
            let n = rest.iter().position(|b| !plain(*b)).unwrap_or(rest.len());
            out.push(std::str::from_utf8(&rest[..n]).unwrap_or_default())?;
            rest = &rest[n..];
            if let [b, after @ ..] = rest {
                match b {
                    b' ' if in_query => out.push("+")?,
                    b => out.push(&format!("%{b:02X}"))?,
                }
                rest = after;
            }
        }
        Ok(())
    }
    let mut out = Buffer::default();
    let pairs: Vec<(Value, Value)> = match v {
        Value::Dict(d) => d.map.iter().map(|(key, v)| (key.value(), v.clone())).collect(),
        Value::Seq(s) => s
            .items
            .iter()
            .map(|pair| match &pair.items()?.items[..] {
                [key, value] => Ok((key.clone(), value.clone())),
                _ => Err("urlencode: an element is no pair".to_string()),
            })
            .collect::<Result<_>>()?,
        v => {
            quote(&mut out, v, false)?;
            return Value::text(out.finish());
        }
    };
    for (i, (key, value)) in pairs.iter().enumerate() {
        out.push(if i > 0 { "&" } else { "" })?;
        quote(&mut out, key, true)?;
        out.push("=")?;
        quote(&mut out, value, true)?;
    }
    Value::text(out.finish())
}

/// Lines but the first are indented, and those that are empty only with `blank`.
fn indent(v: &Value, args: &Args) -> Result<Value> {
    let [width, first, blank] = args.take(["width", "first", "blank"])?;
    let before = match &width {
        Some(Value::Str(s)) => s.to_string(),
        width => {
            let n = number(width, 4)?.max(0) as usize;
            check_width("an indent", n)?;
            " ".repeat(n)
        }
    };
    let s = write::str(v)? + "\n";
    let mut out = Buffer::default();
    for (i, line) in lines(&s, false).enumerate() {
        out.push(if i > 0 { "\n" } else { "" })?;
        if if i == 0 { is_true(&first) } else { is_true(&blank) || !line.is_empty() } {
            out.push(&before)?;
        }
        out.push(line)?;
    }
    Value::text(out.finish())
}

/// Words begin behind white space, "-" and opening brackets.
fn title(s: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for c in s.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = !(is_space(c) || "-({[<".contains(c));
    }
    out
}

fn striptags(s: &str) -> String {
    let mut plain = String::new();
    let mut rest = s;
    while let Some((before, tag)) = rest.split_once('<') {
        let Some((_, after)) = tag.split_once('>') else { break };
        plain += before;
        rest = after;
    }
    plain += rest;
    plain.split(is_space).filter(|w| !w.is_empty()).collect::<Vec<_>>().join(" ")
}

/// `select`, `reject` and their forms of an attribute.
fn select(v: &Value, mut args: Args, of_attribute: bool, wanted: bool) -> Result<Value> {
    let path = if of_attribute {
        if args.positional.is_empty() {
            return Err("Missing parameter for attribute name".to_string());
        }
        Some(args.positional.remove(0))
    } else {
        None
    };
    let name = if args.positional.is_empty() { None } else { Some(write::str(&args.positional.remove(0))?) };
    let mut kept = Vec::new();
    // What is false has no items, whatever it is.
    if !v.is_true() {
        return Value::seq(Kind::Generator, kept);
    }
    for v in &v.items()?.items {
        charge(1)?;
        let of = match &path {
            Some(path) => by_path(v, path, &None)?,
            None => v.clone(),
        };
        let holds = match &name {
            Some(name) => test(name, &of, &args)?,
            None => of.is_true(),
        };
        if holds == wanted {
            kept.push(v.clone());
        }
    }
    Value::seq(Kind::Generator, kept)
}

fn map(interpreter: &Interpreter, v: &Value, mut args: Args) -> Result<Value> {
    let mut out = Vec::new();
    if !v.is_true() {
        return Value::seq(Kind::Generator, out);
    }
    let items = v.items()?;
    if args.positional.is_empty() {
        let [path, otherwise] = args.take(["attribute", "default"])?;
        let path = path.ok_or("map requires a filter argument")?;
        for v in &items.items {
            out.push(by_path(v, &path, &otherwise)?);
        }
    } else {
        let name = write::str(&args.positional.remove(0))?;
        for v in &items.items {
            charge(1)?;
            let args = Args { positional: args.positional.clone(), named: args.named.clone() };
            out.push(apply(interpreter, &name, v, args)?);
        }
    }
    Value::seq(Kind::Generator, out)
}

fn unique(v: &Value, args: &Args) -> Result<Value> {
    let [case_sensitive, attribute] = args.take(["case_sensitive", "attribute"])?;
    let mut seen = std::collections::HashSet::new();
    let mut kept = Vec::new();
    for v in &v.items()?.items {
        let of = match &attribute {
            Some(path) => by_path(v, path, &None)?,
            None => v.clone(),
        };
        if seen.insert(Key::of(&folded(of, is_true(&case_sensitive))?)?) {
            kept.push(v.clone());
        }
    }
    Value::seq(Kind::Generator, kept)
}

fn groupby(v: &Value, args: &Args) -> Result<Value> {
    let [path, otherwise, case_sensitive] = args.take(["attribute", "default", "case_sensitive"])?;
    let path = path.ok_or("groupby wants an attribute")?;
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    let mut last = None;
    let mut keyed = keyed(&v.items()?.items, &Some(path.clone()), is_true(&case_sensitive), &otherwise)?;
    sort_by_key(&mut keyed, less)?;
    for (key, v) in keyed {
        match (groups.last_mut(), &last) {
            (Some(group), Some(last)) if equal(last, &key)? => group.1.push(v),
            _ => groups.push((by_path(&v, &path, &otherwise)?, vec![v])),
        }
        last = Some(key);
    }
    Value::list(groups.into_iter().map(|(key, items)| Value::tuple(vec![key, Value::list(items)?])).collect::<Result<_>>()?)
}

/// `batch`: rows of n; `slice`: n columns.
fn rows(v: &Value, args: &Args, columns: bool) -> Result<Value> {
    let [n, fill] = args.take(["count", "fill_with"])?;
    let n = usize::try_from(number(&n, 0)?).ok().filter(|n| *n > 0).ok_or("a count of at least 1 is wanted")?;
    let fill = fill.filter(|f| !matches!(f, Value::None));
    let items = v.items()?;
    let items = &items.items;
    let mut out = Vec::new();
    if columns {
        let (each, longer) = (items.len() / n, items.len() % n);
        charge(n)?;
        super::value::check_length(n)?;
        let mut at = 0;
        for i in 0..n {
            let mut row = items[at..at + each + (i < longer) as usize].to_vec();
            at += row.len();
            if let (Some(fill), true) = (&fill, i >= longer) {
                row.push(fill.clone());
            }
            out.push(Value::list(row)?);
        }
    } else {
        for chunk in items.chunks(n) {
            let mut row = chunk.to_vec();
            if let Some(fill) = &fill {
                super::value::check_length(n.saturating_mul(32))?;
                charge(n)?;
                row.resize(n, fill.clone());
            }
            out.push(Value::list(row)?);
        }
    }
    Value::seq(Kind::Generator, out)
}

pub fn apply(interpreter: &Interpreter, name: &str, v: &Value, args: Args) -> Result<Value> {
    let none = |args: &Args| args.take([]).map(|[]| ());
    let as_text = || {
        let s = write::str(v)?;
        charge_chars(s.len())?;
        Ok::<String, String>(s)
    };
    if let Value::Str(s) = v {
        if s.is_markup() && markup::FILTERS.contains(&name) {
            return markup::filter(interpreter, name, s, args);
        }
    }
    match name {
        "default" | "d" => {
            let [otherwise, boolean] = args.take(["default_value", "boolean"])?;
            if v.is_undefined() || (is_true(&boolean) && !v.is_true()) {
                return otherwise.map_or_else(|| Value::text(""), Ok);
            }
            Ok(v.clone())
        }
        "length" | "count" => none(&args).and_then(|_| Ok(Value::Int(v.len()? as i128))),
        "string" => none(&args).and_then(|_| if let Value::Str(_) = v { Ok(v.clone()) } else { Value::text(write::str(v)?) }),
        "safe" => none(&args).and_then(|_| Ok(Value::Str(Text::markup(write::str(v)?)?))),
        "upper" => none(&args).and_then(|_| Value::text(as_text()?.to_uppercase())),
        "lower" => none(&args).and_then(|_| Value::text(as_text()?.to_lowercase())),
        "capitalize" => none(&args).and_then(|_| Value::text(capitalize(&as_text()?))),
        "title" => none(&args).and_then(|_| Value::text(title(&as_text()?))),
        "striptags" => none(&args).and_then(|_| Value::text(striptags(&as_text()?))),
        "escape" | "e" => none(&args).and_then(|_| Ok(Value::Str(markup::escaped(v)?))),
        "forceescape" => none(&args).and_then(|_| Ok(Value::Str(markup::escape(&as_text()?)?))),
        "wordcount" => none(&args).and_then(|_| Ok(Value::Int(as_text()?.split(|c: char| !(c == '_' || c.is_alphanumeric())).filter(|w| !w.is_empty()).count() as i128))),
        "pprint" => Value::text(write::repr_of(v)?),
        "trim" => {
            let [chars] = args.take(["chars"])?;
            let chars = chars.filter(|c| !matches!(c, Value::None)).map(|c| write::str(&c)).transpose()?;
            let s = as_text()?;
            Value::text(strip(&s, chars.as_deref(), true, true)?)
        }
        "center" => {
            let [width] = args.take(["width"])?;
            pad(&as_text()?, "center", number(&width, 80)?, ' ')
        }
        "replace" => {
            let [old, new, count] = args.take(["old", "new", "count"])?;
            replace(&as_text()?, &text(&old, "")?, &text(&new, "")?, number(&count, -1)?)
        }
        "format" => {
            if args.named.is_empty() {
                return Value::text(write::percent(&as_text()?, &args.positional)?);
            }
            if !args.positional.is_empty() {
                return Err("can't handle positional and keyword arguments at the same time".to_string());
            }
            let named = Value::dict(args.named.into_iter().map(|(name, v)| (Key::Str(name), v)).collect())?;
            Value::text(write::percent(&as_text()?, &[named])?)
        }
        "truncate" => truncate(v, &args),
        "urlencode" => none(&args).and_then(|_| urlencode(v)),
        "indent" => indent(v, &args),
        "tojson" => tojson(v, &args),
        "round" => round(v, &args),
        "abs" => match v.defined()? {
            Value::Float(f) => Ok(Value::Float(f.abs())),
            v => v.as_int().and_then(i128::checked_abs).map(Value::Int).ok_or_else(|| format!("bad operand type for abs(): '{}'", v.type_name())),
        },
        "int" => {
            let [otherwise, base] = args.take(["default", "base"])?;
            let base = u32::try_from(number(&base, 10)?).ok().filter(|b| (2..=36).contains(b)).ok_or("a base between 2 and 36 is wanted")?;
            let found = match v {
                Value::Str(s) if base != 10 => {
                    let s = s.trim_matches(is_space).to_ascii_lowercase();
                    let digits = s.strip_prefix(match base {
                        16 => "0x",
                        8 => "0o",
                        _ => "0b",
                    });
                    i128::from_str_radix(digits.unwrap_or(&s), base).ok()
                }
                Value::Str(s) => integer(s).or_else(|| float(s).filter(|f| f.is_finite()).map(|f| f as i128)),
                v => v.as_int().or_else(|| v.as_float().filter(|f| f.is_finite()).map(|f| f as i128)),
            };
            Ok(found.map(Value::Int).or(otherwise).unwrap_or(Value::Int(0)))
        }
        "float" => {
            let [otherwise] = args.take(["default"])?;
            let found = match v {
                Value::Str(s) => float(s),
                v => v.as_float(),
            };
            Ok(found.map(Value::Float).or(otherwise).unwrap_or(Value::Float(0.0)))
        }
        "list" => none(&args).and_then(|_| Value::list(v.items()?.items.clone())),
        "first" => none(&args).and_then(|_| Ok(v.items()?.items.first().cloned().unwrap_or(Value::missing("No first item, sequence was empty.")))),
        "last" => none(&args).and_then(|_| Ok(v.items()?.items.last().cloned().unwrap_or(Value::missing("No last item, sequence was empty.")))),
        "reverse" => match v {
            Value::Str(s) => {
                charge_chars(s.len())?;
                Value::text(s.chars().rev().collect::<String>())
            }
            v => Value::seq(Kind::Generator, v.items()?.items.iter().rev().cloned().collect()),
        },
        "join" => {
            let [between, path] = args.take(["d", "attribute"])?;
            let between = text(&between, "")?;
            let mut out = Buffer::default();
            for (i, item) in v.items()?.items.iter().enumerate() {
                out.push(if i > 0 { &between } else { "" })?;
                match path.as_ref().filter(|p| !matches!(p, Value::None)) {
                    Some(path) => write::push(&mut out, &by_path(item, path, &None)?)?,
                    None => write::push(&mut out, item)?,
                }
            }
            Value::text(out.finish())
        }
        "sum" => {
            let [path, start] = args.take(["attribute", "start"])?;
            let mut total = start.unwrap_or(Value::Int(0));
            for item in &v.items()?.items {
                let item = match path.as_ref().filter(|p| !matches!(p, Value::None)) {
                    Some(path) => by_path(item, path, &None)?,
                    None => item.clone(),
                };
                if let Value::Str(_) = item {
                    return Err("sum() can't sum strings".to_string());
                }
                total = math("+", &total, &item)?;
            }
            Ok(total)
        }
        "min" | "max" => {
            let [case_sensitive, path] = args.take(["case_sensitive", "attribute"])?;
            let mut best: Option<(Value, Value)> = None;
            for v in &v.items()?.items {
                let of = match &path {
                    Some(path) => by_path(v, path, &None)?,
                    None => v.clone(),
                };
                let key = folded(of, is_true(&case_sensitive))?;
                let better = match &best {
                    Some((known, _)) => ordered(if name == "min" { "<" } else { ">" }, &key, known)?,
                    None => true,
                };
                if better {
                    best = Some((key, v.clone()));
                }
            }
            Ok(best.map_or(Value::missing("No aggregated item, sequence was empty."), |(_, v)| v))
        }
        "sort" => {
            let [reverse, case_sensitive, path] = args.take(["reverse", "case_sensitive", "attribute"])?;
            let mut keyed = keyed(&v.items()?.items, &path, is_true(&case_sensitive), &None)?;
            sort_by_key(&mut keyed, less_unless_equal)?;
            Value::list(values(if is_true(&reverse) { reversed(keyed) } else { keyed }))
        }
        "dictsort" => {
            let [case_sensitive, by, reverse] = args.take(["case_sensitive", "by", "reverse"])?;
            let at = match text(&by, "key")?.as_str() {
                "key" => 0,
                "value" => 1,
                _ => return Err("You can only sort by either \"key\" or \"value\"".to_string()),
            };
            let Value::Dict(d) = v.defined()? else { return Err(format!("'{}' object has no attribute 'items'", v.type_name())) };
            let mut keyed = Vec::new();
            for (key, v) in &d.map {
                let of = if at == 0 { key.value() } else { v.clone() };
                keyed.push((folded(of, is_true(&case_sensitive))?, Value::tuple(vec![key.value(), v.clone()])?));
            }
            sort_by_key(&mut keyed, less)?;
            Value::list(values(if is_true(&reverse) { reversed(keyed) } else { keyed }))
        }
        "items" => match v {
            Value::Undefined(_) => Value::seq(Kind::Generator, Vec::new()),
            Value::Dict(d) => Value::seq(Kind::Generator, d.map.iter().map(|(key, v)| Value::tuple(vec![key.value(), v.clone()])).collect::<Result<_>>()?),
            _ => Err("Can only get item pairs from a mapping.".to_string()),
        },
        "attr" => {
            let [name] = args.take(["name"])?;
            let name = Text::new(text(&name, "")?)?;
            match v {
                // Its keys are no attributes.
                Value::Dict(_) if !super::methods::has(v, &name) => Ok(Value::Undefined(super::value::Missing::Attribute("dict", name))),
                v => attribute(v, &name),
            }
        }
        "select" => select(v, args, false, true),
        "reject" => select(v, args, false, false),
        "selectattr" => select(v, args, true, true),
        "rejectattr" => select(v, args, true, false),
        "map" => map(interpreter, v, args),
        "unique" => unique(v, &args),
        "groupby" => groupby(v, &args),
        "batch" => rows(v, &args, false),
        "slice" => rows(v, &args, true),
        _ => Err(format!("No filter named '{name}'.")),
    }
}
