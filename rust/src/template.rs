//! Chat templates as Transformers renders them: Jinja2, sandboxed, trim_blocks, lstrip_blocks, its `tojson`, `raise_exception`,
//! `strftime_now`, loop controls and the `generation` block.

use std::cell::Cell;
use std::ffi::c_void;

use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};

use crate::pyvalue::{Tuple, View};
use crate::{jinja, pytext, source};

pub type Strftime = extern "C" fn(clock: *const c_void, format: *const u8, n: usize, out: *mut u8, capacity: usize) -> usize;

#[derive(Clone, Copy)]
pub struct Now {
    pub strftime: Strftime,
    pub clock: *const c_void,
}

thread_local! {
    static NOW: Cell<Option<Now>> = const { Cell::new(None) };
}

pub struct ChatTemplate {
    env: Environment<'static>,
}

/// Instructions one rendering may take: a chat of ten thousand messages needs about a million.
const FUEL: u64 = 1_250_000;

/// Padding of a text: more is a mistake or an attack.
pub const MAX_WIDTH: usize = 4096;

/// Bytes of a rendered text.
pub const MAX_OUTPUT: usize = 64 << 20;

/// minijinja parses, compares, hashes and frees by recursion: this holds the deepest source that `source::prepare` lets through and the
/// deepest value that FUEL can build, a level an instruction, at 390 bytes a level of `==`, the most of these. Filters and functions that
/// take more a level are removed or refuse such values. Only what is used becomes memory.
const STACK: usize = 768 << 20;

pub fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

fn tojson(v: Value, args: Rest<Value>) -> Result<Value, Error> {
    let (rest, kwargs): (&[Value], Kwargs) = minijinja::value::from_args(&args.0)?;
    let ensure_ascii: Option<bool> = kwargs.get("ensure_ascii")?;
    let indent: Option<Value> = kwargs.get("indent")?;
    let separators: Option<Value> = kwargs.get("separators")?;
    let sort_keys: Option<bool> = kwargs.get("sort_keys")?;
    kwargs.assert_all_used()?;
    // Positional order of Transformers' filter: ensure_ascii, indent, separators, sort_keys.
    let ensure_ascii = ensure_ascii.or_else(|| rest.first().map(|v| v.is_true())).unwrap_or(false);
    let indent = indent.or_else(|| rest.get(1).cloned()).filter(|v| !v.is_none() && !v.is_undefined());
    let separators = separators.or_else(|| rest.get(2).cloned()).filter(|v| !v.is_none() && !v.is_undefined());
    let sort_keys = sort_keys.or_else(|| rest.get(3).map(|v| v.is_true())).unwrap_or(false);
    let indent = match indent {
        None => None,
        Some(v) if v.kind() == ValueKind::String => match v.as_str().unwrap_or_default() {
            s if s.len() > MAX_WIDTH => return Err(wrong(format!("indent by {} characters; at most {MAX_WIDTH}", s.len()))),
            s => Some(s.to_string()),
        },
        Some(v) => {
            let n = i64::try_from(v)?;
            Some(" ".repeat(n.clamp(0, 64) as usize))
        }
    };
    let mut style = pytext::JsonStyle {
        item: if indent.is_some() { "," } else { ", " }.to_string(),
        colon: ": ".to_string(),
        indent,
        ensure_ascii,
        sort_keys,
    };
    if let Some(s) = separators {
        style.item = pytext::str(&s.get_item(&Value::from(0))?)?;
        style.colon = pytext::str(&s.get_item(&Value::from(1))?)?;
    }
    let mut out = String::new();
    pytext::json(&mut out, &v, &style, 0)?;
    Ok(Value::from_safe_string(out))
}

fn strftime_now(format: String) -> Result<String, Error> {
    let now = NOW.with(|n| n.get()).ok_or_else(|| wrong("strftime_now: there is no clock"))?;
    let mut buffer = vec![0u8; 256 + 16 * format.len()];
    let n = (now.strftime)(now.clock, format.as_ptr(), format.len(), buffer.as_mut_ptr(), buffer.len());
    buffer.truncate(n);
    Ok(String::from_utf8_lossy(&buffer).into_owned())
}

fn float(v: &Value) -> Option<Value> {
    match v.as_str() {
        Some(s) => s.trim().parse::<f64>().ok(),
        None if v.kind() == ValueKind::Bool => Some(v.is_true() as i64 as f64),
        None => f64::try_from(v.clone()).ok(),
    }
    .map(Value::from)
}

fn integer(v: &Value) -> Option<Value> {
    match v.as_str() {
        Some(s) => s.trim().parse::<i64>().ok().map(Value::from),
        None if v.is_integer() => Some(v.clone()),
        None => None,
    }
    .or_else(|| f64::try_from(float(v)?).ok().filter(|f| f.is_finite()).map(|f| Value::from(f as i64)))
}

/// Jinja2's `int` and `float` give their default, not an error, for what is no number.
fn number_or_default(number: Option<Value>, args: Rest<Value>, zero: Value) -> Result<Value, Error> {
    let (rest, kwargs): (&[Value], Kwargs) = minijinja::value::from_args(&args.0)?;
    let named: Option<Value> = kwargs.get("default")?;
    kwargs.assert_all_used()?;
    Ok(number.unwrap_or_else(|| named.or_else(|| rest.first().cloned()).unwrap_or(zero)))
}

/// Jinja2's `sum`: of the values or of one attribute of them, added to `start`.
fn sum(v: Value, args: Rest<Value>) -> Result<Value, Error> {
    let (rest, kwargs): (&[Value], Kwargs) = minijinja::value::from_args(&args.0)?;
    let attribute: Option<Value> = kwargs.get("attribute")?;
    let start: Option<Value> = kwargs.get("start")?;
    kwargs.assert_all_used()?;
    let attribute = attribute.or_else(|| rest.first().cloned()).filter(|a| !a.is_none());
    let mut total = start.or_else(|| rest.get(1).cloned()).unwrap_or(Value::from(0));
    for item in v.try_iter()? {
        let item = match &attribute {
            Some(a) => item.get_item(a)?,
            None => item,
        };
        total = match (total.kind(), item.kind()) {
            (ValueKind::Number | ValueKind::Bool, ValueKind::Number | ValueKind::Bool) => match (integer_only(&total), integer_only(&item)) {
                (Some(a), Some(b)) => Value::from(a.checked_add(b).ok_or_else(|| wrong("sum: a number is too large"))?),
                _ => Value::from(f64::try_from(total)? + f64::try_from(item)?),
            },
            (ValueKind::Seq, ValueKind::Seq) => Value::from(total.try_iter()?.chain(item.try_iter()?).collect::<Vec<_>>()),
            (a, b) => return Err(wrong(format!("sum: cannot add {b} to {a}"))),
        };
    }
    Ok(total)
}

fn integer_only(v: &Value) -> Option<i64> {
    if v.kind() == ValueKind::Bool {
        return Some(v.is_true() as i64);
    }
    if v.is_integer() { i64::try_from(v.clone()).ok() } else { None }
}

/// str.rsplit: at most `most` cuts, taken from the end; without a separator, runs of white space.
fn rsplit(s: &str, separator: Option<&str>, most: Option<i64>) -> Vec<String> {
    let most = most.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    let mut rest = if separator.is_none() { s.trim_end() } else { s };
    let mut parts = Vec::new();
    while parts.len() < most {
        let cut = match separator {
            Some(p) => rest.rsplit_once(p),
            None => rest.rsplit_once(char::is_whitespace).map(|(a, b)| (a.trim_end(), b)),
        };
        let Some((before, after)) = cut else { break };
        parts.push(after.to_string());
        rest = before;
    }
    if separator.is_some() || !rest.is_empty() {
        parts.push(rest.to_string());
    }
    parts.reverse();
    parts
}

/// str.ljust, rjust and center.
fn pad(s: &str, how: &str, width: usize, fill: char) -> Result<Value, Error> {
    if width > MAX_WIDTH {
        return Err(wrong(format!("{how} to {width} characters; at most {MAX_WIDTH}")));
    }
    let n = width.saturating_sub(s.chars().count());
    let left = match how {
        "ljust" => 0,
        "rjust" => n,
        _ => n / 2 + (n & width & 1),  // Python's choice where the rest is odd
    };
    let run = |n: usize| fill.to_string().repeat(n);
    Ok(Value::from(format!("{}{s}{}", run(left), run(n - left))))
}

/// str.splitlines
pub fn lines(s: &str, keep_ends: bool) -> Vec<&str> {
    let mut out = Vec::new();
    let mut begin = 0;
    let mut chars = s.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if !matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}') {
            continue;
        }
        let mut end = at + c.len_utf8();
        if c == '\r' && chars.next_if(|&(_, next)| next == '\n').is_some() {
            end += 1;
        }
        out.push(&s[begin..if keep_ends { end } else { at }]);
        begin = end;
    }
    if begin < s.len() {
        out.push(&s[begin..]);
    }
    out
}

/// Runs `f` on a stack of its own.
fn with_stack<T: Send>(f: impl FnOnce() -> Result<T, String> + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, f).map_err(|e| format!("chat template: no thread: {e}"))?;
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Takes at most MAX_OUTPUT bytes.
struct Output(Vec<u8>);

impl std::io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT {
            return Err(std::io::Error::other(format!("the text is longer than {MAX_OUTPUT} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// `value[begin:end:step]`
fn slice(value: &Value, args: &[Value]) -> Result<Value, Error> {
    let (begin, end, step): (Option<i64>, Option<i64>, Option<i64>) = minijinja::value::from_args(args)?;
    let items: Vec<Value> = match value.as_str() {
        Some(s) => s.chars().map(Value::from).collect(),
        None => value.try_iter()?.collect(),
    };
    let (n, step) = (items.len() as i64, step.unwrap_or(1));
    if step == 0 {
        return Err(wrong("slice step cannot be zero"));
    }
    // Borders as Python moves them: between 0 and n, a step lower where it goes backwards.
    let (low, high) = if step > 0 { (0, n) } else { (-1, n - 1) };
    let border = |i: i64| if i < 0 { i.saturating_add(n).max(low) } else { i.min(high) };
    let (first, last) = (begin.map_or(if step > 0 { low } else { high }, border), end.map_or(if step > 0 { high } else { low }, border));
    let mut picked = Vec::new();
    let mut i = first;
    while if step > 0 { i < last } else { i > last } {
        picked.push(items[i as usize].clone());
        i = i.saturating_add(step);
    }
    Ok(match value.as_str() {
        Some(_) => picked.iter().map(|c| c.as_str().unwrap_or_default()).collect::<String>().into(),
        None if value.downcast_object_ref::<Tuple>().is_some() => Tuple::value(picked),
        None => picked.into(),
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

/// Whether the words of `s` are as `istitle` has them: at least one cased letter, each first one upper and each other one lower.
fn is_title(s: &str) -> bool {
    s.chars().any(|c| c.is_alphabetic()) && title(s) == s
}

/// The part of `s` that `find(p, begin, end)` and its like look at, with the characters before it.
fn part(s: &str, begin: Option<i64>, end: Option<i64>) -> Option<(usize, &str)> {
    let n = s.chars().count() as i64;
    let border = |i: i64| if i < 0 { (i + n).max(0) } else { i };
    let (begin, end) = (border(begin.unwrap_or(0)), border(end.unwrap_or(n)).min(n));
    if begin > end {
        return None;
    }
    let at = |i: i64| s.char_indices().nth(i as usize).map_or(s.len(), |(at, _)| at);
    Some((begin as usize, &s[at(begin)..at(end)]))
}

/// Python's methods that templates call: those of minijinja's own set and a few more.
fn method(state: &State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if name == source::SLICE {
        return slice(value, args);
    }
    if let Some(s) = value.as_str() {
        match name {
            "removeprefix" => {
                let (p,): (&str,) = minijinja::value::from_args(args)?;
                return Ok(Value::from(s.strip_prefix(p).unwrap_or(s)));
            }
            "removesuffix" => {
                let (p,): (&str,) = minijinja::value::from_args(args)?;
                return Ok(Value::from(s.strip_suffix(p).unwrap_or(s)));
            }
            "index" | "rindex" | "find" | "rfind" | "count" => {
                let (p, begin, end): (&str, Option<i64>, Option<i64>) = minijinja::value::from_args(args)?;
                let part = part(s, begin, end);
                if name == "count" {
                    return Ok(Value::from(part.map_or(0, |(_, text)| text.matches(p).count())));
                }
                let found = part.and_then(|(skipped, text)| {
                    let at = if name.starts_with('r') { text.rfind(p) } else { text.find(p) };
                    at.map(|at| (skipped + text[..at].chars().count()) as i64)
                });
                return match found {
                    None if name.ends_with("index") => Err(wrong("substring not found")),
                    at => Ok(Value::from(at.unwrap_or(-1))),
                };
            }
            "startswith" | "endswith" => {
                let (p, begin, end): (Value, Option<i64>, Option<i64>) = minijinja::value::from_args(args)?;
                let candidates = if p.kind() == ValueKind::String { vec![p] } else { p.try_iter()?.collect() };
                let Some((_, text)) = part(s, begin, end) else { return Ok(Value::from(false)) };
                return Ok(Value::from(candidates.iter().filter_map(|p| p.as_str()).any(|p| if name == "startswith" { text.starts_with(p) } else { text.ends_with(p) })));
            }
            "split" if args.last().is_some_and(|v| v.is_kwargs()) => {
                let (rest, kwargs): (&[Value], Kwargs) = minijinja::value::from_args(args)?;
                let separator = rest.first().cloned().or(kwargs.get("sep")?).unwrap_or(Value::from(()));
                let most = rest.get(1).cloned().or(kwargs.get("maxsplit")?).unwrap_or(Value::from(-1));
                kwargs.assert_all_used()?;
                return minijinja_contrib::pycompat::unknown_method_callback(state, value, name, &[separator, most]);
            }
            // Lists and dicts as Python writes them; a field may ask for their parts. What cannot be written is refused here: minijinja would follow it.
            "format" => {
                let whole = |v: &Value| !s.contains('[') && matches!(v.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable) && !v.is_kwargs();
                let texts: Vec<String> = args.iter().map(pytext::str).collect::<Result<_, Error>>()?;
                pytext::check_fields(s, texts.iter().map(String::len).max().unwrap_or(0))?;
                let args: Vec<Value> = args.iter().zip(texts).map(|(v, text)| if whole(v) { Value::from(text) } else { v.clone() }).collect();
                return minijinja_contrib::pycompat::unknown_method_callback(state, value, name, &args);
            }
            "title" => return Ok(Value::from(title(s))),
            "istitle" => return Ok(Value::from(is_title(s))),
            "swapcase" => {
                let swap = |c: char| if c.is_uppercase() { c.to_lowercase().collect::<String>() } else { c.to_uppercase().collect() };
                return Ok(Value::from(s.chars().map(swap).collect::<String>()));
            }
            "isnumeric" => return Ok(Value::from(!s.is_empty() && s.chars().all(|c| c.is_numeric()))),
            "isdecimal" => return Ok(Value::from(!s.is_empty() && s.chars().all(|c| c.is_numeric() && !c.is_alphabetic() && c.to_digit(10).is_some()))),
            "isidentifier" => {
                let word = s.chars().all(|c| c == '_' || c.is_alphanumeric());
                return Ok(Value::from(word && s.starts_with(|c: char| c == '_' || c.is_alphabetic())));
            }
            "expandtabs" => {
                let (size,): (Option<usize>,) = minijinja::value::from_args(args)?;
                let size = size.unwrap_or(8).min(MAX_WIDTH);
                let (mut out, mut column) = (String::new(), 0);
                for c in s.chars() {
                    pytext::check_length(out.len())?;
                    if c == '\t' {
                        let n = if size == 0 { 0 } else { size - column % size };
                        out += &" ".repeat(n);
                        column += n;
                    } else {
                        out.push(c);
                        column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
                    }
                }
                return Ok(Value::from(out));
            }
            "rsplit" => {
                let (separator, most): (Option<&str>, Option<i64>) = minijinja::value::from_args(args)?;
                if separator == Some("") {
                    return Err(wrong("empty separator"));
                }
                return Ok(Value::from(rsplit(s, separator, most)));
            }
            "partition" | "rpartition" => {
                let (p,): (&str,) = minijinja::value::from_args(args)?;
                if p.is_empty() {
                    return Err(wrong("empty separator"));
                }
                let halves = if name == "partition" { s.split_once(p) } else { s.rsplit_once(p) };
                let parts = match halves {
                    Some((a, b)) => [a, p, b],
                    None if name == "partition" => [s, "", ""],
                    None => ["", "", s],
                };
                return Ok(Tuple::value(parts.map(Value::from).to_vec()));
            }
            "ljust" | "rjust" | "center" => {
                let (width, fill): (usize, Option<char>) = minijinja::value::from_args(args)?;
                return pad(s, name, width, fill.unwrap_or(' '));
            }
            "zfill" => {
                let (width,): (usize,) = minijinja::value::from_args(args)?;
                let sign = if s.starts_with(['+', '-']) { 1 } else { 0 };
                let digits = pad(&s[sign..], "rjust", width.saturating_sub(sign), '0')?;
                return Ok(Value::from(format!("{}{digits}", &s[..sign])));
            }
            "splitlines" => {
                let (keep_ends,): (Option<bool>,) = minijinja::value::from_args(args)?;
                return Ok(lines(s, keep_ends.unwrap_or(false)).into_iter().map(Value::from).collect());
            }
            "casefold" => return Ok(Value::from(s.to_lowercase())),
            "isascii" => return Ok(Value::from(s.is_ascii())),
            _ => {}
        }
    }
    match (value.kind(), name) {
        (ValueKind::Seq | ValueKind::Map, "copy") => return Ok(value.clone()),
        (ValueKind::Map, "items") if args.is_empty() => return Ok(View::value("dict_items", jinja::pairs(value)?)),
        (ValueKind::Map, "keys") if args.is_empty() => return Ok(View::value("dict_keys", value.try_iter()?.collect())),
        (ValueKind::Map, "values") if args.is_empty() => {
            let values: Result<Vec<Value>, Error> = value.try_iter()?.map(|key| value.get_item(&key)).collect();
            return Ok(View::value("dict_values", values?));
        }
        (ValueKind::Seq, "index") => {
            let (wanted,): (Value,) = minijinja::value::from_args(args)?;
            let at = value.try_iter()?.position(|v| v == wanted);
            return at.map(Value::from).ok_or_else(|| wrong("the value is not in the list"));
        }
        _ => {}
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
}

fn message(e: Error) -> String {
    let mut text = e.to_string();
    let mut source = std::error::Error::source(&e);
    while let Some(s) = source {
        text += &format!(": {s}");
        source = s.source();
    }
    text
}

impl ChatTemplate {
    pub fn new(text: &str) -> Result<ChatTemplate, String> {
        with_stack(|| ChatTemplate::parse(text))
    }

    fn parse(text: &str) -> Result<ChatTemplate, String> {
        let mut env = Environment::new();
        env.set_trim_blocks(true);
        env.set_lstrip_blocks(true);
        env.set_keep_trailing_newline(false);
        env.set_debug(false);
        env.set_fuel(Some(FUEL));
        env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        env.set_unknown_method_callback(method);
        env.set_formatter(|out, _state, value| {
            if let Some(s) = value.as_str() {
                return out.write_str(s).map_err(Error::from);
            }
            out.write_str(&pytext::str(value)?).map_err(Error::from)
        });
        // Jinja2 has none of these, and minijinja's write or walk values of any depth.
        for name in ["zip", "chain", "lines", "split"] {
            env.remove_filter(name);
        }
        for name in ["startingwith", "endingwith"] {
            env.remove_test(name);
        }
        env.remove_global("debug");
        env.add_filter("tojson", tojson);
        env.add_filter("string", |v: Value| pytext::str(&v));
        env.add_filter("pprint", |v: Value| pytext::repr_of(&v));
        env.add_filter("safe", |v: Value| pytext::str(&v).map(Value::from_safe_string));
        env.add_filter("capitalize", |v: Value| -> Result<String, Error> {
            let text = pytext::str(&v)?;
            let mut chars = text.chars();
            Ok(chars.next().map_or(String::new(), |c| c.to_uppercase().collect::<String>() + &chars.as_str().to_lowercase()))
        });
        for name in ["escape", "e"] {
            env.add_filter(name, |state: &State, v: Value| -> Result<Value, Error> {
                let text = if v.kind() == ValueKind::String { v } else { Value::from(pytext::str(&v)?) };
                minijinja::filters::escape(state, &text)
            });
        }
        // An undefined value is empty.
        for name in ["length", "count"] {
            env.add_filter(name, |v: Value| -> Result<usize, Error> {
                if v.is_undefined() {
                    return Ok(0);
                }
                v.len().ok_or_else(|| wrong(format!("a value of type {} has no length", v.kind())))
            });
        }
        env.add_filter("sum", sum);
        env.add_filter("wordcount", |v: Value| pytext::str(&v).map(|s| s.split_whitespace().count()));
        env.add_filter("center", |v: Value, width: Option<usize>| pad(&pytext::str(&v)?, "center", width.unwrap_or(80), ' '));
        env.add_filter("format", |v: Value, args: Rest<Value>| -> Result<String, Error> { pytext::percent(&pytext::str(&v)?, &args.0) });
        env.add_filter(source::PERCENT, |v: Value, right: Value| -> Result<String, Error> {
            let text = pytext::str(&v)?;
            match right.downcast_object_ref::<Tuple>() {
                Some(t) => pytext::percent(&text, t.items()),
                None => pytext::percent(&text, &[right]),
            }
        });
        env.add_function(source::TUPLE, |items: Rest<Value>| Tuple::value(items.0));
        env.add_function(source::CONCAT, jinja::concat);
        jinja::add(&mut env);
        // These take any value in Jinja2 and work on its text.
        env.add_filter("trim", |v: Value, chars: Option<String>| -> Result<String, Error> {
            let s = pytext::str(&v)?;
            Ok(match chars {
                Some(c) => s.trim_matches(&c.chars().collect::<Vec<_>>()[..]).to_string(),
                None => s.trim().to_string(),
            })
        });
        env.add_filter("upper", |v: Value| pytext::str(&v).map(|s| s.to_uppercase()));
        env.add_filter("lower", |v: Value| pytext::str(&v).map(|s| s.to_lowercase()));
        env.add_filter("int", |v: Value, args: Rest<Value>| number_or_default(integer(&v), args, Value::from(0)));
        env.add_filter("float", |v: Value, args: Rest<Value>| number_or_default(float(&v), args, Value::from(0.0)));
        env.add_function("raise_exception", |m: Value| -> Result<Value, Error> { Err(wrong(pytext::str(&m)?)) });
        env.add_function("strftime_now", strftime_now);
        // Python counts a text and a dict as sequences, and a bool as a number.
        env.add_test("sequence", |v: Value| matches!(v.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map));
        env.add_test("iterable", |v: Value| {
            matches!(v.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable | ValueKind::Undefined)
        });
        env.add_test("number", |v: Value| matches!(v.kind(), ValueKind::Number | ValueKind::Bool));
        let prepared = source::prepare(text).map_err(|e| format!("chat template: {e}"))?;
        env.add_template_owned("chat", prepared).map_err(|e| format!("chat template: {}", message(e)))?;
        Ok(ChatTemplate { env })
    }

    pub fn render(&self, context: &[u8], now: Now) -> Result<String, String> {
        let clock = now.clock as usize;  // pointers may not cross to a thread
        with_stack(move || {
            let context: Value = serde_json::from_slice(context).map_err(|e| format!("chat template: its variables are not JSON: {e}"))?;
            let template = self.env.get_template("chat").map_err(message)?;
            NOW.with(|n| n.set(Some(Now { strftime: now.strftime, clock: clock as *const c_void })));
            let mut out = Output(Vec::new());
            template.render_captured_to(context, &mut out).map_err(|e| format!("chat template: {}", message(e)))?;
            String::from_utf8(out.0).map_err(|e| format!("chat template: {e}"))
        })
    }
}
