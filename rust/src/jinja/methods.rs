//! Python's methods of texts, lists, tuples and dicts, as far as Jinja2's immutable sandbox lets templates call them.

use super::eval::Args;
use super::ops::{changed, cycle};
use super::value::{charge_bytes, charge_chars, check_length, check_width, equal, Buffer, Held, Key, Kind, Result, Text, Value};
use super::{filters, markup, write};

const STR: [&str; 43] = [
    "capitalize", "casefold", "center", "count", "endswith", "expandtabs", "find", "format", "index", "isalnum", "isalpha", "isascii", "isdecimal", "isdigit",
    "isidentifier", "islower", "isnumeric", "isprintable", "isspace", "istitle", "isupper", "join", "ljust", "lower", "lstrip", "partition", "removeprefix",
    "removesuffix", "replace", "rfind", "rindex", "rjust", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase", "title",
    "upper", "zfill",
];

pub fn has(v: &Value, name: &str) -> bool {
    match v {
        Value::Str(_) => STR.contains(&name),
        Value::Dict(_) => matches!(name, "get" | "items" | "keys" | "values" | "copy"),
        Value::Seq(s) if s.kind == Kind::List => matches!(name, "index" | "count" | "copy"),
        Value::Seq(s) if matches!(s.kind, Kind::Tuple | Kind::Range(..)) => matches!(name, "index" | "count"),
        Value::Loop(_) => matches!(name, "cycle" | "changed"),
        Value::Cycler(_) => matches!(name, "next" | "reset"),
        _ => false,
    }
}

/// What would change a list or dict.
pub fn is_unsafe(v: &Value, name: &str) -> bool {
    match v {
        Value::Dict(_) => matches!(name, "clear" | "pop" | "popitem" | "setdefault" | "update"),
        Value::Seq(s) if s.kind == Kind::List => matches!(name, "append" | "clear" | "pop" | "reverse" | "insert" | "sort" | "extend" | "remove"),
        v => name.starts_with("__") && !matches!(v, Value::Namespace(_)),
    }
}

/// What Python counts as white space.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

pub fn call(v: &Value, name: &str, args: Args) -> Result<Value> {
    match v {
        Value::Str(s) if s.is_markup() => markup::method(s, name, args),
        Value::Str(s) => str_method(s, name, args),
        Value::Dict(d) => match name {
            "get" => {
                let [key, otherwise] = args.take(["key", "default"])?;
                let key = key.ok_or("get expected at least 1 argument, got 0")?;
                Ok(d.find(&key)?.cloned().or(otherwise).unwrap_or(Value::None))
            }
            "items" => {
                let [] = args.take([])?;
                let pairs: Result<_> = d.map.iter().map(|(key, v)| Value::tuple(vec![key.value(), v.clone()])).collect();
                Value::seq(Kind::Items, pairs?)
            }
            "keys" => {
                let [] = args.take([])?;
                Value::seq(Kind::Keys, d.map.keys().map(Key::value).collect())
            }
            "values" => {
                let [] = args.take([])?;
                Value::seq(Kind::Values, d.map.values().cloned().collect())
            }
            _ => Ok(v.clone()),
        },
        Value::Seq(s) => match name {
            "index" => {
                let [wanted] = args.take(["value"])?;
                let wanted = wanted.ok_or("index expected at least 1 argument, got 0")?;
                for (i, item) in s.items.iter().enumerate() {
                    if equal(item, &wanted)? {
                        return Ok(Value::Int(i as i128));
                    }
                }
                Err("the value is not in the list".to_string())
            }
            "count" => {
                let [wanted] = args.take(["value"])?;
                let wanted = wanted.ok_or("count() takes exactly one argument (0 given)")?;
                let mut n = 0;
                for item in &s.items {
                    n += equal(item, &wanted)? as i128;
                }
                Ok(Value::Int(n))
            }
            _ => Value::list(s.items.clone()),
        },
        Value::Loop(l) if name == "cycle" => cycle(l, args.positional),
        Value::Loop(l) => changed(l, args.positional),
        Value::Cycler(c) if name == "next" => {
            let at = c.at.get();
            c.at.set((at + 1) % c.items.len());
            Ok(c.items[at].clone())
        }
        Value::Cycler(c) => {
            c.at.set(0);
            Ok(Value::None)
        }
        v => Err(format!("'{} object' has no attribute '{name}'", v.type_name())),
    }
}

fn text_of<'a>(v: &'a Option<Value>, what: &str) -> Result<&'a str> {
    match v {
        Some(Value::Str(s)) => Ok(s),
        Some(v) => Err(format!("{what} must be str, not {}", v.type_name())),
        None => Err(format!("{what} is missing")),
    }
}

fn optional_text(v: &Option<Value>) -> Result<Option<&str>> {
    match v {
        None | Some(Value::None) => Ok(None),
        Some(Value::Str(s)) => Ok(Some(s)),
        Some(v) => Err(format!("must be str or None, not {}", v.type_name())),
    }
}

fn optional_int(v: &Option<Value>) -> Result<Option<i64>> {
    match v {
        None | Some(Value::None) => Ok(None),
        Some(v) => v.int().map(Some),
    }
}

/// The part of `s` that `find(p, begin, end)` and its like look at, with the characters before it.
fn part(s: &str, begin: Option<i64>, end: Option<i64>) -> Option<(usize, &str)> {
    if begin.is_none() && end.is_none() {
        return Some((0, s));
    }
    let n = s.chars().count() as i64;
    let border = |i: i64| if i < 0 { (i.saturating_add(n)).max(0) } else { i };
    let (begin, end) = (border(begin.unwrap_or(0)), border(end.unwrap_or(n)).min(n));
    if begin > end {
        return None;
    }
    let at = |i: i64| s.char_indices().nth(i as usize).map_or(s.len(), |(at, _)| at);
    Some((begin as usize, &s[at(begin)..at(end)]))
}

pub fn strip<'a>(s: &'a str, chars: Option<&str>, left: bool, right: bool) -> Result<&'a str> {
    let set: Option<Vec<char>> = chars.map(|c| c.chars().collect());
    // Each character of the text may meet each of the set.
    charge_chars(s.len().saturating_mul(1 + chars.map_or(0, str::len)))?;
    let of = |c: char| match &set {
        Some(set) => set.contains(&c),
        None => is_space(c),
    };
    let s = if left { s.trim_start_matches(of) } else { s };
    Ok(if right { s.trim_end_matches(of) } else { s })
}

pub fn replace(s: &str, old: &str, new: &str, count: i64) -> Result<Value> {
    let found = s.matches(old).count().min(usize::try_from(count).unwrap_or(usize::MAX));
    check_length(s.len().saturating_add(found.saturating_mul(new.len())))?;
    Value::text(s.replacen(old, new, found))
}

/// str.split: at most `most` cuts; without a separator, runs of white space.
fn split(s: &str, separator: Option<&str>, most: usize) -> Result<Value> {
    if let Some(p) = separator {
        return Value::texts(s.splitn(most.saturating_add(1), p));
    }
    let mut rest = s.trim_start_matches(is_space);
    let mut left = most;
    Value::texts(std::iter::from_fn(|| {
        if rest.is_empty() {
            return None;
        }
        let end = if left > 0 { rest.find(is_space).unwrap_or(rest.len()) } else { rest.len() };
        left = left.saturating_sub(1);
        let part = &rest[..end];
        rest = rest[end..].trim_start_matches(is_space);
        Some(part)
    }))
}

/// str.rsplit: as split, the cuts taken from the end.
fn rsplit(s: &str, separator: Option<&str>, most: usize) -> Result<Value> {
    let _held = Held::new(most.min(s.len()).saturating_mul(std::mem::size_of::<&str>()))?;
    let mut parts: Vec<&str> = match separator {
        Some(p) => s.rsplitn(most.saturating_add(1), p).collect(),
        None => {
            let mut parts = Vec::new();
            let mut rest = s.trim_end_matches(is_space);
            while !rest.is_empty() {
                let begin = if parts.len() < most { rest.rfind(is_space).map_or(0, |at| at + rest[at..].chars().next().map_or(1, char::len_utf8)) } else { 0 };
                parts.push(&rest[begin..]);
                rest = rest[..begin].trim_end_matches(is_space);
            }
            parts
        }
    };
    parts.reverse();
    Value::texts(parts)
}

/// str.ljust, rjust and center.
pub fn pad(s: &str, how: &str, width: i64, fill: char) -> Result<Value> {
    let width = width.max(0) as usize;
    check_width(how, width)?;
    let n = width.saturating_sub(s.chars().count());
    let left = match how {
        "ljust" => 0,
        "rjust" => n,
        _ => n / 2 + (n & width & 1),  // Python's choice where the rest is odd
    };
    let run = |n: usize| fill.to_string().repeat(n);
    Value::text(format!("{}{s}{}", run(left), run(n - left)))
}

/// str.splitlines
pub fn lines(s: &str, keep_ends: bool) -> impl Iterator<Item = &str> {
    let ends = |c| matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut rest = s;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let at = rest.find(ends).unwrap_or(rest.len());
        let mark = if rest[at..].starts_with("\r\n") { 2 } else { rest[at..].chars().next().map_or(0, char::len_utf8) };
        let line = &rest[..if keep_ends { at + mark } else { at }];
        rest = &rest[at + mark..];
        Some(line)
    })
}

/// str.title: letters after what is no letter.
fn title(s: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for c in s.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_alphabetic();
    }
    out
}

pub fn capitalize(s: &str) -> String {
    let mut chars = s.chars();
    chars.next().map_or(String::new(), |c| c.to_uppercase().collect::<String>() + &chars.as_str().to_lowercase())
}

pub fn str_method(s: &Text, name: &str, args: Args) -> Result<Value> {
    charge_chars(s.len())?;
    match name {
        "removeprefix" | "removesuffix" => {
            let [p] = args.take(["affix"])?;
            let p = text_of(&p, "the argument")?;
            let cut = if name == "removeprefix" { s.strip_prefix(p) } else { s.strip_suffix(p) };
            cut.map_or_else(|| Ok(Value::Str(s.clone())), Value::text)
        }
        "index" | "rindex" | "find" | "rfind" | "count" => {
            let [p, begin, end] = args.take(["sub", "start", "end"])?;
            let p = text_of(&p, "the argument")?;
            let part = part(s, optional_int(&begin)?, optional_int(&end)?);
            if name == "count" {
                return Ok(Value::Int(part.map_or(0, |(_, text)| text.matches(p).count()) as i128));
            }
            let found = part.and_then(|(skipped, text)| {
                let at = if name.starts_with('r') { text.rfind(p) } else { text.find(p) };
                at.map(|at| (skipped + text[..at].chars().count()) as i128)
            });
            match found {
                None if name.ends_with("index") => Err("substring not found".to_string()),
                at => Ok(Value::Int(at.unwrap_or(-1))),
            }
        }
        "startswith" | "endswith" => {
            let [p, begin, end] = args.take(["affix", "start", "end"])?;
            let candidates = match &p {
                Some(Value::Seq(t)) if t.kind == Kind::Tuple => t.items.clone(),
                p => vec![Value::text(text_of(p, "the argument")?)?],
            };
            let Some((_, text)) = part(s, optional_int(&begin)?, optional_int(&end)?) else { return Ok(Value::Bool(false)) };
            for p in &candidates {
                charge_bytes(p.as_str().map_or(0, str::len).min(text.len()))?;
            }
            Ok(Value::Bool(candidates.iter().filter_map(Value::as_str).any(|p| if name == "startswith" { text.starts_with(p) } else { text.ends_with(p) })))
        }
        "split" | "rsplit" => {
            let [separator, most] = args.take(["sep", "maxsplit"])?;
            let (separator, most) = (optional_text(&separator)?, optional_int(&most)?.unwrap_or(-1));
            if separator == Some("") {
                return Err("empty separator".to_string());
            }
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            if name == "split" { split(s, separator, most) } else { rsplit(s, separator, most) }
        }
        "splitlines" => {
            let [keep_ends] = args.take(["keepends"])?;
            Value::texts(lines(s, keep_ends.is_some_and(|v| v.is_true())))
        }
        "partition" | "rpartition" => {
            let [p] = args.take(["sep"])?;
            let p = text_of(&p, "the separator")?;
            if p.is_empty() {
                return Err("empty separator".to_string());
            }
            let halves = if name == "partition" { s.split_once(p) } else { s.rsplit_once(p) };
            let parts = match halves {
                Some((a, b)) => [a, p, b],
                None if name == "partition" => [&**s, "", ""],
                None => ["", "", &**s],
            };
            Value::tuple(parts.into_iter().map(Value::text).collect::<Result<_>>()?)
        }
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = args.take(["chars"])?;
            Value::text(strip(s, optional_text(&chars)?, name != "rstrip", name != "lstrip")?)
        }
        "replace" => {
            let [old, new, count] = args.take(["old", "new", "count"])?;
            replace(s, text_of(&old, "the argument")?, text_of(&new, "the argument")?, optional_int(&count)?.unwrap_or(-1))
        }
        "join" => {
            let [items] = args.take(["iterable"])?;
            let mut out = Buffer::default();
            for (i, item) in items.unwrap_or(Value::None).items()?.items.iter().enumerate() {
                if i > 0 {
                    out.push(s)?;
                }
                match item {
                    Value::Str(item) => out.push(item)?,
                    v => return Err(format!("sequence item {i}: expected str instance, {} found", v.type_name())),
                }
            }
            Value::text(out.finish())
        }
        "format" => Value::text(write::format(s, &args)?),
        "ljust" | "rjust" | "center" => {
            let [width, fill] = args.take(["width", "fillchar"])?;
            let fill = optional_text(&fill)?.map_or(Some(' '), |f| f.chars().next()).ok_or("the fill character must be exactly one character long")?;
            pad(s, name, width.ok_or("a width is missing")?.int()?, fill)
        }
        "zfill" => {
            let [width] = args.take(["width"])?;
            let sign = if s.starts_with(['+', '-']) { 1 } else { 0 };
            let digits = pad(&s[sign..], "rjust", width.ok_or("a width is missing")?.int()?.saturating_sub(sign as i64), '0')?;
            Value::text(format!("{}{}", &s[..sign], digits.as_str().unwrap_or_default()))
        }
        "expandtabs" => {
            let [size] = args.take(["tabsize"])?;
            let size = optional_int(&size)?.unwrap_or(8).max(0) as usize;
            check_width("a tab", size)?;
            let mut out = Buffer::default();
            let mut column = 0;
            for c in s.chars() {
                if c == '\t' {
                    let n = if size == 0 { 0 } else { size - column % size };
                    out.push(&" ".repeat(n))?;
                    column += n;
                } else {
                    out.push(c.encode_utf8(&mut [0; 4]))?;
                    column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
                }
            }
            Value::text(out.finish())
        }
        _ => {
            let [] = args.take([])?;
            let all = |f: fn(char) -> bool| Ok(Value::Bool(!s.is_empty() && s.chars().all(f)));
            match name {
                "upper" => Value::text(s.to_uppercase()),
                "lower" | "casefold" => Value::text(s.to_lowercase()),
                "title" => Value::text(title(s)),
                "capitalize" => Value::text(capitalize(s)),
                "swapcase" => {
                    let swap = |c: char| if c.is_uppercase() { c.to_lowercase().collect::<String>() } else { c.to_uppercase().collect() };
                    Value::text(s.chars().map(swap).collect::<String>())
                }
                "istitle" => Ok(Value::Bool(s.chars().any(|c| c.is_alphabetic()) && title(s) == **s)),
                "islower" => Ok(Value::Bool(filters::is_lower(s))),
                "isupper" => Ok(Value::Bool(filters::is_upper(s))),
                "isalnum" => all(char::is_alphanumeric),
                "isalpha" => all(char::is_alphabetic),
                "isnumeric" | "isdigit" => all(char::is_numeric),
                "isdecimal" => all(|c| c.is_numeric() && !c.is_alphabetic() && c.to_digit(10).is_some()),
                "isspace" => all(is_space),
                "isascii" => Ok(Value::Bool(s.is_ascii())),
                "isprintable" => Ok(Value::Bool(s.chars().all(write::is_printable))),
                "isidentifier" => {
                    let word = s.chars().all(|c| c == '_' || c.is_alphanumeric());
                    Ok(Value::Bool(word && s.starts_with(|c: char| c == '_' || c.is_alphabetic())))
                }
                name => Err(format!("'str object' has no attribute '{name}'")),
            }
        }
    }
}
