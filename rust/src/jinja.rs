//! Filters as Jinja2 has them where minijinja has none or another.

use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error, State};

use crate::pytext;
use crate::pyvalue::Tuple;
use crate::template::{lines, wrong, MAX_OUTPUT, MAX_WIDTH};

/// The arguments of a filter by place or name.
struct Arguments {
    given: Vec<Option<Value>>,
}

impl Arguments {
    fn new(args: &Rest<Value>, names: &[&'static str]) -> Result<Arguments, Error> {
        let (rest, kwargs): (&[Value], Kwargs) = minijinja::value::from_args(&args.0)?;
        if rest.len() > names.len() {
            return Err(wrong(format!("{} arguments, want at most {}", rest.len(), names.len())));
        }
        let given = names.iter().enumerate().map(|(i, name)| Ok(rest.get(i).cloned().or(kwargs.get::<Option<Value>>(name)?))).collect::<Result<_, Error>>()?;
        kwargs.assert_all_used()?;
        Ok(Arguments { given })
    }

    fn value(&self, i: usize) -> Option<&Value> {
        self.given[i].as_ref().filter(|v| !v.is_undefined())
    }

    fn is_true(&self, i: usize) -> bool {
        self.value(i).is_some_and(|v| v.is_true())
    }

    fn text(&self, i: usize, otherwise: &str) -> Result<String, Error> {
        self.value(i).map_or(Ok(otherwise.to_string()), pytext::str)
    }

    fn number(&self, i: usize, otherwise: i64) -> Result<i64, Error> {
        self.value(i).filter(|v| !v.is_none()).map_or(Ok(otherwise), |v| i64::try_from(v.clone()))
    }
}

fn bounded(s: String) -> Result<String, Error> {
    pytext::check_length(s.len())?;
    Ok(s)
}

pub fn concat(parts: Rest<Value>) -> Result<String, Error> {
    let mut out = String::new();
    for part in parts.0.iter() {
        out += &pytext::str(part)?;
        pytext::check_length(out.len())?;
    }
    Ok(out)
}

/// "a.b.0" of a value: attributes and indices.
fn attribute(v: &Value, path: &Value) -> Result<Value, Error> {
    let Some(path) = path.as_str() else { return v.get_item(path) };
    let mut v = v.clone();
    for part in path.split('.') {
        v = match part.parse::<i64>() {
            Ok(i) => v.get_item(&Value::from(i))?,
            Err(_) => v.get_attr(part)?,
        };
    }
    Ok(v)
}

fn join(v: Value, args: Rest<Value>) -> Result<String, Error> {
    let args = Arguments::new(&args, &["d", "attribute"])?;
    let between = args.text(0, "")?;
    let mut out = String::new();
    if v.is_undefined() {
        return Ok(out);
    }
    for (i, item) in v.try_iter()?.enumerate() {
        if i > 0 {
            out += &between;
        }
        out += &match args.value(1) {
            Some(path) if !path.is_none() => pytext::str(&attribute(&item, path)?)?,
            _ => pytext::str(&item)?,
        };
        if out.len() > MAX_OUTPUT {
            break;
        }
    }
    bounded(out)
}

fn replace(v: Value, args: Rest<Value>) -> Result<String, Error> {
    let args = Arguments::new(&args, &["old", "new", "count"])?;
    let (text, old, new, count) = (pytext::str(&v)?, args.text(0, "")?, args.text(1, "")?, args.number(2, -1)?);
    let found = text.matches(&old).count().min(usize::try_from(count).unwrap_or(usize::MAX));
    pytext::check_length(text.len().saturating_add(found.saturating_mul(new.len())))?;
    Ok(text.replacen(&old, &new, found))
}

fn default(v: Value, args: Rest<Value>) -> Result<Value, Error> {
    let args = Arguments::new(&args, &["default_value", "boolean"])?;
    if v.is_undefined() || (args.is_true(1) && !v.is_true()) {
        return Ok(args.given[0].clone().unwrap_or_else(|| Value::from("")));
    }
    Ok(v)
}

/// Digits that are cut off round half to even, as Python's round() does on the exact value of the float.
fn round(v: Value, args: Rest<Value>) -> Result<Value, Error> {
    let args = Arguments::new(&args, &["precision", "method"])?;
    let (precision, method) = (args.number(0, 0)?, args.text(1, "common")?);
    let precision = precision.clamp(-400, 400) as i32;
    if method == "common" {
        if v.is_integer() && precision >= 0 {
            return Ok(v);
        }
        let f = f64::try_from(v)?;
        let rounded = if precision >= 0 && f.is_finite() {
            format!("{f:.*}", precision as usize).parse().unwrap_or(f)
        } else {
            (f * 10f64.powi(precision)).round_ties_even() / 10f64.powi(precision)
        };
        return Ok(Value::from(rounded));
    }
    let scale = 10f64.powi(precision);
    let f = f64::try_from(v)? * scale;
    match method.as_str() {
        "ceil" => Ok(Value::from(f.ceil() / scale)),
        "floor" => Ok(Value::from(f.floor() / scale)),
        _ => Err(wrong("method must be common, ceil or floor")),
    }
}

fn truncate(v: Value, args: Rest<Value>) -> Result<String, Error> {
    let args = Arguments::new(&args, &["length", "killwords", "end", "leeway"])?;
    let (text, end) = (pytext::str(&v)?, args.text(2, "...")?);
    let (length, leeway) = (args.number(0, 255)?.max(0) as usize, args.number(3, 5)?.max(0) as usize);
    let n = text.chars().count();
    if n <= length.saturating_add(leeway) {
        return Ok(text);
    }
    let most = length.checked_sub(end.chars().count()).ok_or_else(|| wrong(format!("expected length >= {}, got {length}", end.chars().count())))?;
    let cut: String = text.chars().take(most).collect();
    Ok(if args.is_true(1) { cut + &end } else { cut.rsplit_once(' ').map_or(cut.as_str(), |(before, _)| before).to_string() + &end })
}

/// urllib's quote; of a mapping or pairs, a query.
fn urlencode(v: Value) -> Result<String, Error> {
    let quote = |s: &str, keep_slash: bool| {
        let mut out = String::new();
        for b in s.bytes() {
            match b {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => out.push(b as char),
                b'/' if keep_slash => out.push('/'),
                _ => out += &format!("%{b:02X}"),
            }
        }
        out
    };
    if v.kind() == ValueKind::String || !matches!(v.kind(), ValueKind::Map | ValueKind::Seq | ValueKind::Iterable) {
        return Ok(quote(&pytext::str(&v)?, true));
    }
    let mut parts = Vec::new();
    for item in v.try_iter()? {
        let (key, value) = if v.kind() == ValueKind::Map { (item.clone(), v.get_item(&item)?) } else { (item.get_item(&Value::from(0))?, item.get_item(&Value::from(1))?) };
        parts.push(format!("{}={}", quote(&pytext::str(&key)?, false), quote(&pytext::str(&value)?, false)));
    }
    Ok(parts.join("&"))
}

/// Lines but the first are indented, and those that are empty only with `blank`.
fn indent(v: Value, args: Rest<Value>) -> Result<String, Error> {
    let args = Arguments::new(&args, &["width", "first", "blank"])?;
    let before = match args.value(0).and_then(|v| v.as_str()) {
        Some(s) => s.to_string(),
        None => {
            let n = args.number(0, 4)?.max(0) as usize;
            if n > MAX_WIDTH {
                return Err(wrong(format!("indent by {n} characters; at most {MAX_WIDTH}")));
            }
            " ".repeat(n)
        }
    };
    let text = pytext::str(&v)? + "\n";
    let mut out = String::new();
    for (i, line) in lines(&text, false).into_iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        if if i == 0 { args.is_true(1) } else { args.is_true(2) || !line.is_empty() } {
            out += &before;
        }
        out += line;
        if out.len() > MAX_OUTPUT {
            break;
        }
    }
    bounded(out)
}

/// Pairs of a mapping in its own order.
pub fn pairs(v: &Value) -> Result<Vec<Value>, Error> {
    v.try_iter()?.map(|key| Ok(Tuple::value(vec![key.clone(), v.get_item(&key)?]))).collect()
}

fn items(v: Value) -> Result<Value, Error> {
    match v.kind() {
        ValueKind::Map => Ok(Value::from(pairs(&v)?)),
        ValueKind::Undefined => Ok(Value::from(Vec::<Value>::new())),
        k => Err(wrong(format!("items: can only get pairs from a mapping, not {k}"))),
    }
}

fn dictsort(v: Value, args: Rest<Value>) -> Result<Value, Error> {
    let args = Arguments::new(&args, &["case_sensitive", "by", "reverse"])?;
    let named = Kwargs::from_iter([
        ("case_sensitive", Value::from(args.is_true(0))),
        ("by", Value::from(args.text(1, "key")?)),
        ("reverse", Value::from(args.is_true(2))),
    ]);
    let sorted = minijinja::filters::dictsort(&v, named)?;
    Ok(sorted.try_iter()?.map(|pair| Ok(Tuple::value(pair.try_iter()?.collect()))).collect::<Result<Vec<Value>, Error>>()?.into())
}

/// Jinja2's `min` and `max`: of one attribute, texts without regard to case.
fn extreme(state: &State, v: Value, args: Rest<Value>, reverse: bool) -> Result<Value, Error> {
    let args = Arguments::new(&args, &["case_sensitive", "attribute"])?;
    let mut named = vec![("case_sensitive", Value::from(args.is_true(0))), ("reverse", Value::from(reverse))];
    named.extend(args.value(1).map(|path| ("attribute", path.clone())));
    let sorted = minijinja::filters::sort(state, v, Kwargs::from_iter(named))?;
    Ok(sorted.try_iter()?.next().unwrap_or(Value::UNDEFINED))
}

/// Words begin behind white space, "-" and opening brackets.
fn title(v: Value) -> Result<String, Error> {
    let mut out = String::new();
    let mut inside = false;
    for c in pytext::str(&v)?.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = !(c.is_whitespace() || "-({[<".contains(c));
    }
    Ok(out)
}

/// No list, mapping or object: minijinja prints and compares what holds them by a recursion without end.
fn single(v: &Value) -> Result<(), Error> {
    match v.kind() {
        k @ (ValueKind::Seq | ValueKind::Map | ValueKind::Iterable | ValueKind::Plain) => Err(wrong(format!("a {k} is no text or number"))),
        _ => Ok(()),
    }
}

pub fn add(env: &mut Environment<'static>) {
    env.add_filter("join", join);
    env.add_filter("replace", replace);
    env.add_filter("default", default);
    env.add_filter("d", default);
    env.add_filter("round", round);
    env.add_filter("title", title);
    env.add_filter("truncate", truncate);
    env.add_filter("urlencode", urlencode);
    env.add_filter("indent", indent);
    env.add_filter("items", items);
    env.add_filter("dictsort", dictsort);
    env.add_filter("min", |state: &State, v: Value, args: Rest<Value>| extreme(state, v, args, false));
    env.add_filter("max", |state: &State, v: Value, args: Rest<Value>| extreme(state, v, args, true));
    env.add_filter("striptags", |v: Value| -> Result<String, Error> {
        let text = pytext::str(&v)?;
        let mut plain = String::new();
        let mut rest = text.as_str();
        while let Some((before, tag)) = rest.split_once('<') {
            let Some((_, after)) = tag.split_once('>') else { break };
            plain += before;
            rest = after;
        }
        plain += rest;
        Ok(plain.split_whitespace().collect::<Vec<_>>().join(" "))
    });
    env.add_test("callable", |v: Value| v.kind() == ValueKind::Plain);
    env.add_function("joiner", |between: Option<Value>| -> Result<Value, Error> {
        between.iter().try_for_each(single)?;
        Ok(minijinja_contrib::globals::joiner(between))
    });
    env.add_function("cycler", |items: Rest<Value>| -> Result<Value, Error> {
        items.0.iter().try_for_each(single)?;
        minijinja_contrib::globals::cycler(items.0)
    });
}
