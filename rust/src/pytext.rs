//! How Python writes values: str(), repr() and json.dumps(), which templates made for Jinja2 rely on.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};

use crate::pyvalue::{Tuple, View};
use crate::template::{MAX_OUTPUT, MAX_WIDTH};

/// Deeper values are refused: the walk is recursive.
const MAX_DEPTH: usize = 200;

fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

fn too_deep() -> Error {
    Error::new(ErrorKind::InvalidOperation, "a value is nested too deep to be written")
}

/// Refuses a text of so many bytes while it is made, before it fills the memory.
pub fn check_length(bytes: usize) -> Result<(), Error> {
    if bytes > MAX_OUTPUT {
        return Err(wrong(format!("a text is longer than {MAX_OUTPUT} bytes")));
    }
    Ok(())
}

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

fn number(v: &Value) -> String {
    if v.is_integer() {
        v.to_string()
    } else {
        f64::try_from(v.clone()).map(float).unwrap_or_else(|_| v.to_string())
    }
}

/// str.__repr__, for the characters that templates meet: quotes, backslash and control characters are escaped.
fn quoted(out: &mut String, s: &str) {
    let quote = if s.contains('\'') && !s.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in s.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if (c as u32) < 0x20 || (0x7f..0xa1).contains(&(c as u32)) || c as u32 == 0xad => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push(quote);
}

fn repr(out: &mut String, v: &Value, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(too_deep());
    }
    check_length(out.len())?;
    match v.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if v.is_true() { "True" } else { "False" }),
        ValueKind::Number => out.push_str(&number(v)),
        ValueKind::String => quoted(out, v.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            let tuple = v.downcast_object_ref::<Tuple>().map(|t| t.items().len());
            let view = v.downcast_object_ref::<View>();
            if let Some(view) = view {
                out.push_str(view.name);
                out.push('(');
            }
            out.push(if tuple.is_some() { '(' } else { '[' });
            for (i, e) in v.try_iter()?.enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                repr(out, &e, depth + 1)?;
            }
            out.push_str(match tuple {
                Some(1) => ",)",
                Some(_) => ")",
                None => "]",
            });
            if view.is_some() {
                out.push(')');
            }
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in v.try_iter()?.enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                repr(out, &key, depth + 1)?;
                out.push_str(": ");
                repr(out, &v.get_item(&key)?, depth + 1)?;
            }
            out.push('}');
        }
        _ => out.push_str(&v.to_string()),
    }
    Ok(())
}

/// What `{{ v }}` prints in Jinja2.
pub fn str(v: &Value) -> Result<String, Error> {
    match v.kind() {
        ValueKind::Undefined => Ok(String::new()),
        ValueKind::String => Ok(v.as_str().unwrap_or_default().to_string()),
        _ => repr_of(v),
    }
}

/// What Python's repr() gives.
pub fn repr_of(v: &Value) -> Result<String, Error> {
    let mut out = String::new();
    repr(&mut out, v, 0)?;
    Ok(out)
}

fn integer_of(v: &Value) -> Result<i128, Error> {
    match v.kind() {
        ValueKind::Bool => Ok(v.is_true() as i128),
        ValueKind::Number if v.is_integer() => i128::try_from(v.clone()),
        ValueKind::Number => Ok(f64::try_from(v.clone())? as i128),
        k => Err(wrong(format!("a number is required for the format, not {k}"))),
    }
}

fn float_of(v: &Value) -> Result<f64, Error> {
    match v.kind() {
        ValueKind::Bool => Ok(v.is_true() as i64 as f64),
        ValueKind::Number => f64::try_from(v.clone()),
        k => Err(wrong(format!("a number is required for the format, not {k}"))),
    }
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
pub fn percent(format: &str, args: &[Value]) -> Result<String, Error> {
    let mut out = String::new();
    let mapping = args.first().filter(|v| args.len() == 1 && v.kind() == ValueKind::Map);
    let mut named;
    let mut next = args.iter();
    let mut rest = format.chars().peekable();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        check_length(out.len())?;
        named = None;
        if rest.next_if_eq(&'(').is_some() {
            let mapping = mapping.ok_or_else(|| wrong("format requires a mapping"))?;
            let (mut key, mut depth) = (String::new(), 1);
            loop {
                let c = rest.next().ok_or_else(|| wrong("incomplete format key"))?;
                depth += (c == '(') as i32 - (c == ')') as i32;
                if depth == 0 {
                    break;
                }
                key.push(c);
            }
            let value = mapping.get_item(&Value::from(key.as_str()))?;
            if value.is_undefined() {
                return Err(wrong(format!("the format's mapping has no key '{key}'")));
            }
            named = Some(value);
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
        if width > MAX_WIDTH || precision.unwrap_or(0) > MAX_WIDTH {
            return Err(wrong(format!("a format of {} characters; at most {MAX_WIDTH}", width.max(precision.unwrap_or(0)))));
        }
        let conversion = rest.next().ok_or_else(|| wrong("incomplete format"))?;
        if conversion == '%' {
            out.push('%');
            continue;
        }
        let v = match &named {
            Some(v) => v,
            None => next.next().ok_or_else(|| wrong("not enough arguments for format string"))?,
        };
        let numeric = "diuoxXeEfFgG".contains(conversion);
        let body = match conversion {
            's' | 'r' | 'a' | 'c' => {
                let mut text = String::new();
                if conversion == 's' || (conversion == 'c' && v.kind() == ValueKind::String) {
                    text = str(v)?;
                } else if conversion == 'c' {
                    text.extend(u32::try_from(integer_of(v)?).ok().and_then(char::from_u32));
                } else {
                    repr(&mut text, v, 0)?;
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
            c => return Err(wrong(format!("unsupported format character '{c}'"))),
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
            out += &format!("{sign}{body}{}", " ".repeat(fill));
        } else if zero && numeric {
            out += &format!("{sign}{}{body}", "0".repeat(fill));
        } else {
            out += &format!("{}{sign}{body}", " ".repeat(fill));
        }
    }
    if next.next().is_some() && mapping.is_none() {
        return Err(wrong("not all arguments converted during string formatting"));
    }
    Ok(out)
}

/// Refuses a text for str.format whose fields are too wide, or so many that they could make too long a text of values of `longest` bytes.
pub fn check_fields(format: &str, longest: usize) -> Result<(), Error> {
    let (mut fields, mut most) = (0usize, 0);
    let mut rest = format;
    while let Some((_, field)) = rest.split_once('{') {
        if let Some(after) = field.strip_prefix('{') {
            rest = after;
            continue;
        }
        fields += 1;
        rest = field;
        while let Some((_, key)) = rest.find(['[', ':', '}']).filter(|&at| rest[at..].starts_with('[')).map(|at| rest.split_at(at)) {
            rest = key.split_once(']').map_or("", |(_, behind)| behind);
        }
        let Some(at) = rest.find([':', '}']).filter(|&at| rest[at..].starts_with(':')) else { continue };
        let spec = &rest[at + 1..];
        let fill = spec.chars().next().map_or(0, char::len_utf8);
        rest = if spec[fill..].starts_with(['<', '>', '^']) { &spec[fill..] } else { spec };
        let end = rest.find('}').unwrap_or(rest.len());
        for number in rest[..end].split(|c: char| !c.is_ascii_digit()).filter(|n| !n.is_empty()) {
            let number = number.parse::<usize>().unwrap_or(usize::MAX);
            if number > MAX_WIDTH {
                return Err(wrong(format!("a format of {number} characters; at most {MAX_WIDTH}")));
            }
            most = number.max(most);
        }
        rest = &rest[end..];
    }
    check_length(fields.saturating_mul(longest + most).saturating_add(format.len()))
}

pub struct JsonStyle {
    pub indent: Option<String>,
    pub item: String,
    pub colon: String,
    pub ensure_ascii: bool,
    pub sort_keys: bool,
}

fn json_string(out: &mut String, s: &str, ensure_ascii: bool) {
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c if ensure_ascii && c as u32 > 0x7e => {
                let mut units = [0u16; 2];
                for u in c.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{u:04x}"));
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

fn json_key(v: &Value) -> Result<String, Error> {
    match v.kind() {
        ValueKind::String => Ok(v.as_str().unwrap_or_default().to_string()),
        ValueKind::None => Ok("null".to_string()),
        ValueKind::Bool => Ok(v.is_true().to_string()),
        ValueKind::Number => Ok(number(v)),
        k => Err(Error::new(ErrorKind::BadSerialization, format!("a key of kind {k} has no JSON form"))),
    }
}

fn line(out: &mut String, style: &JsonStyle, depth: usize) {
    if let Some(indent) = &style.indent {
        out.push('\n');
        for _ in 0..depth {
            out.push_str(indent);
        }
    }
}

/// json.dumps
pub fn json(out: &mut String, v: &Value, style: &JsonStyle, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(too_deep());
    }
    check_length(out.len())?;
    match v.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if v.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push_str(&match number(v).as_str() {
            "nan" => "NaN".to_string(),
            "inf" => "Infinity".to_string(),
            "-inf" => "-Infinity".to_string(),
            n => n.to_string(),
        }),
        ValueKind::String => json_string(out, v.as_str().unwrap_or_default(), style.ensure_ascii),
        ValueKind::Seq | ValueKind::Iterable => {
            let mut empty = true;
            out.push('[');
            for e in v.try_iter()? {
                if !empty {
                    out.push_str(&style.item);
                }
                empty = false;
                line(out, style, depth + 1);
                json(out, &e, style, depth + 1)?;
            }
            if !empty {
                line(out, style, depth);
            }
            out.push(']');
        }
        ValueKind::Map => {
            let mut keys: Vec<Value> = v.try_iter()?.collect();
            if style.sort_keys {
                keys.sort();
            }
            out.push('{');
            for (i, key) in keys.iter().enumerate() {
                if i > 0 {
                    out.push_str(&style.item);
                }
                line(out, style, depth + 1);
                json_string(out, &json_key(key)?, style.ensure_ascii);
                out.push_str(&style.colon);
                json(out, &v.get_item(key)?, style, depth + 1)?;
            }
            if !keys.is_empty() {
                line(out, style, depth);
            }
            out.push('}');
        }
        k => return Err(Error::new(ErrorKind::BadSerialization, format!("a value of kind {k} has no JSON form"))),
    }
    Ok(())
}
