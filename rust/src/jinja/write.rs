//! How Python writes values: str(), repr(), json.dumps(), `%` and str.format.

use super::eval::Args;
use super::ops::{attribute, item};
use super::value::{charge, charge_bytes, charge_chars, check_width, Buffer, Key, Kind, Result, Text, Value};

/// float.__repr__: the shortest digits that read back, with an exponent below 1e-4 and from 1e16.
pub fn float(f: f64) -> String {
    if f.is_nan() {
        return "nan".to_string();
    }
    if f.is_infinite() {
        return if f > 0.0 { "inf" } else { "-inf" }.to_string();
    }
    let scientific = format!("{f:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if f != 0.0 && !(-4..16).contains(&exponent) {
        return format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs());
    }
    let plain = format!("{f}");
    if plain.contains('.') {
        plain
    } else {
        plain + ".0"
    }
}

/// Pushes `s`, its characters that `escape` has an escape for written so.
fn push_escaped(out: &mut Buffer, s: &str, escape: impl Fn(char) -> Option<String>) -> Result<()> {
    charge_chars(s.len())?;
    let mut begin = 0;
    for (at, c) in s.char_indices() {
        if let Some(text) = escape(c) {
            out.push(&s[begin..at])?;
            out.push(&text)?;
            begin = at + c.len_utf8();
        }
    }
    out.push(&s[begin..])
}

/// Signs that Python's repr() writes as escapes: of control, of format, of private use, and spaces but the plain one.
const UNPRINTABLE: [(u32, u32); 30] = [
    (0x7f, 0xa0), (0xad, 0xad), (0x600, 0x605), (0x61c, 0x61c), (0x6dd, 0x6dd), (0x70f, 0x70f), (0x890, 0x891), (0x8e2, 0x8e2), (0x1680, 0x1680),
    (0x180e, 0x180e), (0x2000, 0x200f), (0x2028, 0x202f), (0x205f, 0x206f), (0x3000, 0x3000), (0xe000, 0xf8ff), (0xfeff, 0xfeff), (0xfff9, 0xfffb),
    (0x110bd, 0x110bd), (0x110cd, 0x110cd), (0x13430, 0x1343f), (0x1bca0, 0x1bca3), (0x1d173, 0x1d17a), (0xe0001, 0xe0001), (0xe0020, 0xe007f),
    (0xf0000, 0xffffd), (0x100000, 0x10fffd), (0xfdd0, 0xfdef), (0xfffe, 0xffff), (0x1fffe, 0x1ffff), (0x2fffe, 0x2ffff),
];

/// str.isprintable, but for code points that Unicode has not given yet.
pub fn is_printable(c: char) -> bool {
    c >= ' ' && !UNPRINTABLE.iter().any(|range| (range.0..=range.1).contains(&(c as u32)))
}

/// str.__repr__
fn quoted(out: &mut Buffer, s: &str) -> Result<()> {
    let quote = if s.contains('\'') && !s.contains('"') { '"' } else { '\'' };
    let mark = quote.encode_utf8(&mut [0; 4]).to_string();
    out.push(&mark)?;
    push_escaped(out, s, |c| match c {
        '\\' => Some("\\\\".to_string()),
        '\n' => Some("\\n".to_string()),
        '\r' => Some("\\r".to_string()),
        '\t' => Some("\\t".to_string()),
        c if c == quote => Some(format!("\\{c}")),
        c if is_printable(c) => None,
        c => Some(match c as u32 {
            n @ 0..=0xff => format!("\\x{n:02x}"),
            n @ 0x100..=0xffff => format!("\\u{n:04x}"),
            n => format!("\\U{n:08x}"),
        }),
    })?;
    out.push(&mark)
}

fn repr(out: &mut Buffer, v: &Value) -> Result<()> {
    match v {
        Value::Undefined(_) => out.push("Undefined"),
        Value::None => out.push("None"),
        Value::Bool(b) => out.push(if *b { "True" } else { "False" }),
        Value::Int(i) => out.push(&i.to_string()),
        Value::Float(f) => out.push(&float(*f)),
        Value::Str(s) if s.is_markup() => {
            out.push("Markup(")?;
            quoted(out, s)?;
            out.push(")")
        }
        Value::Str(s) => quoted(out, s),
        Value::Seq(s) => match s.kind {
            Kind::Generator => out.push("<generator object>"),
            Kind::Range(start, stop, 1) => out.push(&format!("range({start}, {stop})")),
            Kind::Range(start, stop, step) => out.push(&format!("range({start}, {stop}, {step})")),
            kind => {
                let view = matches!(kind, Kind::Keys | Kind::Values | Kind::Items);
                if view {
                    out.push(v.type_name())?;
                    out.push("(")?;
                }
                out.push(if kind == Kind::Tuple { "(" } else { "[" })?;
                for (i, e) in s.items.iter().enumerate() {
                    if i > 0 {
                        out.push(", ")?;
                    }
                    repr(out, e)?;
                }
                out.push(match (kind, s.items.len()) {
                    (Kind::Tuple, 1) => ",)",
                    (Kind::Tuple, _) => ")",
                    _ if view => "])",
                    _ => "]",
                })
            }
        },
        Value::Dict(d) => {
            out.push("{")?;
            for (i, (key, value)) in d.map.iter().enumerate() {
                if i > 0 {
                    out.push(", ")?;
                }
                repr(out, &key.value())?;
                out.push(": ")?;
                repr(out, value)?;
            }
            out.push("}")
        }
        // What a namespace holds is no namespace.
        Value::Namespace(ns) => {
            out.push("<Namespace {")?;
            for (i, (key, value)) in ns.0.borrow().iter().enumerate() {
                out.push(if i > 0 { ", " } else { "" })?;
                quoted(out, key)?;
                out.push(": ")?;
                repr(out, value)?;
            }
            out.push("}>")
        }
        Value::Macro(m) => out.push(&format!("{m:?}")),
        Value::Loop(l) => out.push(&format!("{l:?}")),
        Value::Function(name) => out.push(&format!("<function {name}>")),
        Value::Method(m) => out.push(&format!("<built-in method {} of {} object>", &*m.1, m.0.type_name())),
        v => out.push(&format!("<{} object>", v.type_name())),
    }
}

/// What `{{ v }}` prints in Jinja2.
pub fn str(v: &Value) -> Result<String> {
    match v {
        Value::Undefined(_) => Ok(String::new()),
        Value::Str(s) => {
            charge_bytes(s.len())?;
            Ok(s.to_string())
        }
        v => repr_of(v),
    }
}

/// Puts `str(v)` behind `out`.
pub fn push(out: &mut Buffer, v: &Value) -> Result<()> {
    match v {
        Value::Undefined(_) => Ok(()),
        Value::Str(s) => out.push(s),
        v => repr(out, v),
    }
}

/// What Python's repr() gives.
pub fn repr_of(v: &Value) -> Result<String> {
    let mut out = Buffer::default();
    repr(&mut out, v)?;
    Ok(out.finish())
}

fn integer_of(v: &Value) -> Result<i128> {
    match v {
        Value::Float(f) => Ok(*f as i128),
        v => v.as_int().ok_or_else(|| format!("a number is required for the format, not {}", v.type_name())),
    }
}

fn float_of(v: &Value) -> Result<f64> {
    v.as_float().ok_or_else(|| format!("a number is required for the format, not {}", v.type_name()))
}

/// C's %e: two digits of exponent at least.
fn scientific(f: f64, precision: usize) -> String {
    let text = format!("{f:.precision$e}");
    let Some((mantissa, exponent)) = text.split_once('e') else { return text };  // inf, nan
    let exponent: i32 = exponent.parse().unwrap_or(0);
    format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// C's %g: the shorter of both notations, without trailing zeros.
fn general(f: f64, precision: usize) -> String {
    let precision = precision.max(1);
    let exponent: i32 = format!("{:.*e}", precision - 1, f).split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
    let trim = |s: String| if s.contains('.') { s.trim_end_matches('0').trim_end_matches('.').to_string() } else { s };
    if exponent < -4 || exponent >= precision as i32 {
        let text = scientific(f, precision - 1);
        let (mantissa, rest) = text.split_once('e').unwrap_or((&text, "+00"));
        return format!("{}e{rest}", trim(mantissa.to_string()));
    }
    trim(format!("{f:.*}", (precision as i32 - 1 - exponent).max(0) as usize))
}

/// `format % args` of Python: flags, width and precision as numbers, the conversions that texts and numbers know, keys of a mapping.
pub fn percent(format: &str, args: &[Value]) -> Result<String> {
    let mut out = Buffer::default();
    let mapping = match args {
        [Value::Dict(d)] => Some(d),
        _ => None,
    };
    let mut named;
    let mut next = args.iter();
    let mut rest = format.chars().peekable();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c.encode_utf8(&mut [0; 4]))?;
            continue;
        }
        named = None;
        if rest.next_if_eq(&'(').is_some() {
            let mapping = mapping.ok_or("format requires a mapping")?;
            let (mut key, mut depth) = (String::new(), 1);
            loop {
                let c = rest.next().ok_or("incomplete format key")?;
                depth += (c == '(') as i32 - (c == ')') as i32;
                if depth == 0 {
                    break;
                }
                key.push(c);
            }
            named = Some(mapping.get(&key).ok_or_else(|| format!("the format's mapping has no key '{key}'"))?);
        }
        let (mut left, mut plus, mut space, mut zero, mut other) = (false, false, false, false, false);
        while let Some(flag) = rest.next_if(|c| "-+ 0#".contains(*c)) {
            match flag {
                '-' => left = true,
                '+' => plus = true,
                ' ' => space = true,
                '0' => zero = true,
                _ => other = true,
            }
        }
        let digits = |rest: &mut std::iter::Peekable<std::str::Chars>| {
            let mut n = None;
            while let Some(d) = rest.next_if(|c| c.is_ascii_digit()) {
                n = Some((n.unwrap_or(0) * 10 + d as usize - '0' as usize).min(1 << 20));
            }
            n
        };
        let width = digits(&mut rest).unwrap_or(0);
        let precision = if rest.next_if(|c| *c == '.').is_some() { Some(digits(&mut rest).unwrap_or(0)) } else { None };
        check_width("a format", width.max(precision.unwrap_or(0)))?;
        let conversion = rest.next().ok_or("incomplete format")?;
        if conversion == '%' {
            out.push("%")?;
            continue;
        }
        let v = match named {
            Some(v) => v,
            None => next.next().ok_or("not enough arguments for format string")?,
        };
        let numeric = "diuoxXeEfFgG".contains(conversion);
        let body = match conversion {
            's' | 'r' | 'a' | 'c' => {
                let mut text = String::new();
                if conversion == 's' || (conversion == 'c' && v.as_str().is_some()) {
                    text = str(v)?;
                } else if conversion == 'c' {
                    text.extend(u32::try_from(integer_of(v)?).ok().and_then(char::from_u32));
                } else {
                    text = repr_of(v)?;
                }
                match precision {
                    Some(p) => text.chars().take(p).collect(),
                    None => text,
                }
            }
            'd' | 'i' | 'u' => format!("{:0>1$}", integer_of(v)?.unsigned_abs(), precision.unwrap_or(1)),
            'x' => format!("{}{:x}", if other { "0x" } else { "" }, integer_of(v)?.unsigned_abs()),
            'X' => format!("{}{:X}", if other { "0X" } else { "" }, integer_of(v)?.unsigned_abs()),
            'o' => format!("{}{:o}", if other { "0o" } else { "" }, integer_of(v)?.unsigned_abs()),
            'f' | 'F' => format!("{:.*}", precision.unwrap_or(6), float_of(v)?.abs()),
            'e' => scientific(float_of(v)?.abs(), precision.unwrap_or(6)),
            'E' => scientific(float_of(v)?.abs(), precision.unwrap_or(6)).to_uppercase(),
            'g' => general(float_of(v)?.abs(), precision.unwrap_or(6)),
            'G' => general(float_of(v)?.abs(), precision.unwrap_or(6)).to_uppercase(),
            c => return Err(format!("unsupported format character '{c}'")),
        };
        let negative = numeric && if "eEfFgG".contains(conversion) { float_of(v)?.is_sign_negative() } else { integer_of(v)? < 0 };
        let sign = match (numeric, negative, plus, space) {
            (true, true, _, _) => "-",
            (true, false, true, _) => "+",
            (true, false, false, true) => " ",
            _ => "",
        };
        let fill = width.saturating_sub(sign.len() + body.chars().count());
        if left {
            out.push(&format!("{sign}{body}{}", " ".repeat(fill)))?;
        } else if zero && numeric {
            out.push(&format!("{sign}{}{body}", "0".repeat(fill)))?;
        } else {
            out.push(&format!("{}{sign}{body}", " ".repeat(fill)))?;
        }
    }
    // A list and what is undefined count as mappings here.
    let whole = matches!(args, [Value::Dict(_) | Value::Undefined(_)]) || matches!(args, [Value::Seq(s)] if matches!(s.kind, Kind::List | Kind::Range(..)));
    if next.next().is_some() && !whole {
        return Err("not all arguments converted during string formatting".to_string());
    }
    Ok(out.finish())
}

/// A replacement field's specification: `[[fill]align][sign][#][0][width][grouping][.precision][type]`.
fn formatted(v: &Value, spec: &str) -> Result<String> {
    if spec.is_empty() {
        return str(v);
    }
    let wrong = || format!("Invalid format specifier '{spec}' for object of type '{}'", v.type_name());
    let mut rest: Vec<char> = spec.chars().collect();
    rest.reverse();
    let is_align = |c: char| "<>=^".contains(c);
    let (mut fill, mut align) = (' ', None);
    match (rest.last().copied(), rest.len().checked_sub(2).map(|i| rest[i])) {
        (Some(c), Some(a)) if is_align(a) => {
            (fill, align) = (c, Some(a));
            rest.truncate(rest.len() - 2);
        }
        (Some(a), _) if is_align(a) => {
            align = Some(a);
            rest.pop();
        }
        _ => {}
    }
    let mut next_if = |set: &str| rest.pop_if(|c| set.contains(*c));
    let sign = next_if("+- ");
    let other = next_if("#").is_some();
    if next_if("0").is_some() && align.is_none() {
        (fill, align) = ('0', Some('='));
    }
    let number = |next_if: &mut dyn FnMut(&str) -> Option<char>| {
        let mut n = None;
        while let Some(d) = next_if("0123456789") {
            n = Some((n.unwrap_or(0) * 10 + d as usize - '0' as usize).min(1 << 20));
        }
        n
    };
    let width = number(&mut next_if).unwrap_or(0);
    let grouping = next_if(",_");
    let precision = match next_if(".") {
        Some(_) => Some(number(&mut next_if).ok_or("Format specifier missing precision")?),
        None => None,
    };
    let kind = next_if("sdbcoxXeEfFgGn%");
    if !rest.is_empty() {
        return Err(wrong());
    }
    check_width("a format", width.max(precision.unwrap_or(0)))?;
    let mut negative = false;
    let numeric = !matches!(v, Value::Str(_));
    let body = match (v, kind) {
        (Value::Str(s), None | Some('s')) if sign.is_none() && align != Some('=') => match precision {
            Some(p) => s.chars().take(p).collect(),
            None => str(v)?,
        },
        (Value::Int(_) | Value::Bool(_), None | Some('d' | 'b' | 'c' | 'o' | 'x' | 'X' | 'n')) => {
            let i = integer_of(v)?;
            negative = i < 0;
            let n = i.unsigned_abs();
            match kind {
                None if matches!(v, Value::Bool(_)) && width == 0 => return str(v),
                Some('b') => format!("{}{n:b}", if other { "0b" } else { "" }),
                Some('o') => format!("{}{n:o}", if other { "0o" } else { "" }),
                Some('x') => format!("{}{n:x}", if other { "0x" } else { "" }),
                Some('X') => format!("{}{n:X}", if other { "0X" } else { "" }),
                Some('c') => u32::try_from(n).ok().and_then(char::from_u32).ok_or_else(wrong)?.to_string(),
                _ => n.to_string(),
            }
        }
        (Value::Int(_) | Value::Bool(_) | Value::Float(_), kind) => {
            let f = float_of(v)?;
            negative = f.is_sign_negative() && !f.is_nan();
            let (f, p) = (f.abs(), precision.unwrap_or(6));
            match kind {
                Some('f' | 'F') => format!("{f:.p$}"),
                Some('e') => scientific(f, p),
                Some('E') => scientific(f, p).to_uppercase(),
                Some('g' | 'n') => general(f, p),
                Some('G') => general(f, p).to_uppercase(),
                Some('%') => format!("{:.p$}%", f * 100.0),
                None => match precision {
                    Some(p) => {
                        let text = general(f, p);
                        if text.contains(['.', 'e', 'n']) { text } else { text + ".0" }
                    }
                    None => float(f),
                },
                _ => return Err(format!("Unknown format code '{}' for object of type '{}'", kind.unwrap_or(' '), v.type_name())),
            }
        }
        _ => return Err(format!("unsupported format string passed to {}.__format__", v.type_name())),
    };
    let body = match grouping {
        Some(mark) => {
            let digits = body.find(|c: char| !c.is_ascii_digit()).unwrap_or(body.len());
            let mut grouped = String::new();
            for (i, c) in body[..digits].chars().enumerate() {
                if i > 0 && (digits - i) % 3 == 0 {
                    grouped.push(mark);
                }
                grouped.push(c);
            }
            grouped + &body[digits..]
        }
        None => body,
    };
    let sign = match (numeric, negative, sign) {
        (true, true, _) => "-",
        (true, false, Some('+')) => "+",
        (true, false, Some(' ')) => " ",
        _ => "",
    };
    let missing = width.saturating_sub(sign.len() + body.chars().count());
    let run = |n: usize| fill.to_string().repeat(n);
    Ok(match align.unwrap_or(if numeric { '>' } else { '<' }) {
        '<' => format!("{sign}{body}{}", run(missing)),
        '^' => format!("{}{sign}{body}{}", run(missing / 2), run(missing - missing / 2)),
        '=' => format!("{sign}{}{body}", run(missing)),
        _ => format!("{}{sign}{body}", run(missing)),
    })
}

/// str.format
pub fn format(text: &str, args: &Args) -> Result<String> {
    let mut out = Buffer::default();
    let mut automatic = 0;
    format_into(text, args, &mut automatic, 0, &mut out)?;
    Ok(out.finish())
}

fn format_into(text: &str, args: &Args, automatic: &mut usize, depth: usize, out: &mut Buffer) -> Result<()> {
    if depth > 1 {
        return Err("Max string recursion exceeded".to_string());
    }
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        out.push(&rest[..at])?;
        let brace = &rest[at..at + 1];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            out.push(brace)?;
            rest = after;
            continue;
        }
        if brace == "}" {
            return Err("Single '}' encountered in format string".to_string());
        }
        // The field ends at its own brace; a key in brackets may hold any sign.
        let (mut level, mut bracket, mut in_spec) = (1, false, false);
        let end = rest.find(|c| {
            match c {
                '[' if !in_spec => bracket = true,
                ']' => bracket = false,
                ':' if !bracket => in_spec = true,
                '{' if !bracket => level += 1,
                '}' if !bracket => level -= 1,
                _ => {}
            }
            level == 0
        });
        let Some(end) = end else { return Err("expected '}' before end of string".to_string()) };
        let field = &rest[..end];
        rest = &rest[end + 1..];
        let mut bracket = false;
        let cut = field.find(|c| {
            match c {
                '[' => bracket = true,
                ']' => bracket = false,
                _ => {}
            }
            !bracket && (c == ':' || c == '!')
        });
        let (name, tail) = field.split_at(cut.unwrap_or(field.len()));
        let mut value = format_field(name, args, automatic)?;
        let mut spec = tail;
        if let Some(conversion) = tail.strip_prefix('!') {
            let c = conversion.chars().next().ok_or("end of string while looking for conversion specifier")?;
            value = match c {
                's' => Value::text(str(&value)?)?,
                'r' | 'a' => Value::text(repr_of(&value)?)?,
                c => return Err(format!("Unknown conversion specifier '{c}'")),
            };
            spec = &conversion[c.len_utf8()..];
            if !spec.is_empty() && !spec.starts_with(':') {
                return Err("expected ':' after conversion specifier".to_string());
            }
        }
        let spec = spec.strip_prefix(':').unwrap_or("");
        if spec.contains('{') {
            let mut inner = Buffer::default();
            format_into(spec, args, automatic, depth + 1, &mut inner)?;
            out.push(&formatted(&value, &inner.finish())?)?;
        } else {
            out.push(&formatted(&value, spec)?)?;
        }
    }
    out.push(rest)
}

/// `0`, `name`, or nothing for the next one, with `.attribute` and `[key]` behind it.
fn format_field(name: &str, args: &Args, automatic: &mut usize) -> Result<Value> {
    let first = name.find(['.', '[']).unwrap_or(name.len());
    let (head, mut rest) = name.split_at(first);
    let position = if head.is_empty() {
        *automatic += 1;
        Some(*automatic - 1)
    } else {
        head.parse::<usize>().ok()
    };
    charge(1 + args.named.len() / 8)?;
    let found = match position {
        Some(i) => args.positional.get(i).ok_or_else(|| format!("Replacement index {i} out of range for positional args tuple"))?,
        None => args.named.iter().find(|(n, _)| **n == *head).map(|(_, v)| v).ok_or_else(|| format!("the format has no argument '{head}'"))?,
    };
    let mut value = found.clone();
    while !rest.is_empty() {
        if let Some(key) = rest.strip_prefix('[') {
            let (key, after) = key.split_once(']').ok_or("Missing ']' in format string")?;
            value = item(&value, &key.parse::<i64>().map_or_else(|_| Value::text(key), |i| Ok(Value::Int(i as i128)))?)?;
            rest = after;
        } else {
            let name = rest.strip_prefix('.').ok_or("Only '.' or '[' may follow ']' in format field specifier")?;
            let end = name.find(['.', '[']).unwrap_or(name.len());
            value = attribute(&value, &Text::new(name[..end].to_string())?)?;
            rest = &name[end..];
        }
        value.defined()?;
    }
    Ok(value)
}

pub struct JsonStyle {
    pub indent: Option<String>,
    pub item: String,
    pub colon: String,
    pub ensure_ascii: bool,
    pub sort_keys: bool,
}

fn json_string(out: &mut Buffer, s: &str, ensure_ascii: bool) -> Result<()> {
    out.push("\"")?;
    push_escaped(out, s, |c| match c {
        '"' => Some("\\\"".to_string()),
        '\\' => Some("\\\\".to_string()),
        '\n' => Some("\\n".to_string()),
        '\r' => Some("\\r".to_string()),
        '\t' => Some("\\t".to_string()),
        '\u{8}' => Some("\\b".to_string()),
        '\u{c}' => Some("\\f".to_string()),
        c if (c as u32) < 0x20 => Some(format!("\\u{:04x}", c as u32)),
        c if ensure_ascii && c as u32 > 0x7e => Some(c.encode_utf16(&mut [0; 2]).iter().map(|u| format!("\\u{u:04x}")).collect()),
        _ => None,
    })?;
    out.push("\"")
}

fn json_key(key: &Key) -> String {
    match key {
        Key::Str(s) => s.to_string(),
        Key::None => "null".to_string(),
        Key::Bool(b) => b.to_string(),
        Key::Int(i) => i.to_string(),
        Key::Float(f) => json_float(*f),
    }
}

fn json_float(f: f64) -> String {
    match float(f).as_str() {
        "nan" => "NaN".to_string(),
        "inf" => "Infinity".to_string(),
        "-inf" => "-Infinity".to_string(),
        n => n.to_string(),
    }
}

fn line(out: &mut Buffer, style: &JsonStyle, depth: usize) -> Result<()> {
    if let Some(indent) = &style.indent {
        out.push("\n")?;
        for _ in 0..depth {
            out.push(indent)?;
        }
    }
    Ok(())
}

/// json.dumps
pub fn json(out: &mut Buffer, v: &Value, style: &JsonStyle, depth: usize) -> Result<()> {
    match v {
        Value::None => out.push("null"),
        Value::Bool(b) => out.push(if *b { "true" } else { "false" }),
        Value::Int(i) => out.push(&i.to_string()),
        Value::Float(f) => out.push(&json_float(*f)),
        Value::Str(s) => json_string(out, s, style.ensure_ascii),
        Value::Seq(s) if matches!(s.kind, Kind::List | Kind::Tuple) => {
            out.push("[")?;
            for (i, e) in s.items.iter().enumerate() {
                if i > 0 {
                    out.push(&style.item)?;
                }
                line(out, style, depth + 1)?;
                json(out, e, style, depth + 1)?;
            }
            if !s.items.is_empty() {
                line(out, style, depth)?;
            }
            out.push("]")
        }
        Value::Dict(d) => {
            let mut entries: Vec<(String, &Value)> = d.map.iter().map(|(key, value)| (json_key(key), value)).collect();
            if style.sort_keys {
                entries.sort_by(|a, b| a.0.cmp(&b.0));
            }
            out.push("{")?;
            for (i, (key, value)) in entries.iter().enumerate() {
                if i > 0 {
                    out.push(&style.item)?;
                }
                line(out, style, depth + 1)?;
                json_string(out, key, style.ensure_ascii)?;
                out.push(&style.colon)?;
                json(out, value, style, depth + 1)?;
            }
            if !entries.is_empty() {
                line(out, style, depth)?;
            }
            out.push("}")
        }
        v => Err(format!("Object of type {} is not JSON serializable", v.type_name())),
    }
}
