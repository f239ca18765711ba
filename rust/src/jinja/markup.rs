//! Python's Markup: what `safe` and `escape` give is escaped already, and what it is put together with becomes so.

use super::eval::{Args, Interpreter};
use super::value::{Buffer, Kind, Result, Text, Value};
use super::{filters, methods, ops, write};

/// The filters that give a Markup for a Markup.
pub const FILTERS: [&str; 9] = ["capitalize", "center", "format", "indent", "lower", "reverse", "trim", "truncate", "upper"];

pub fn escape(s: &str) -> Result<Text> {
    let mut out = Buffer::default();
    let mut rest = s;
    while let Some(at) = rest.find(['&', '<', '>', '"', '\'']) {
        out.push(&rest[..at])?;
        out.push(match rest.as_bytes()[at] {
            b'&' => "&amp;",
            b'<' => "&lt;",
            b'>' => "&gt;",
            b'"' => "&#34;",
            _ => "&#39;",
        })?;
        rest = &rest[at + 1..];
    }
    out.push(rest)?;
    Text::markup(out.finish())
}

/// A value's text, escaped unless it is so already.
pub fn escaped(v: &Value) -> Result<Text> {
    match v {
        Value::Str(s) if s.is_markup() => Ok(s.clone()),
        v => escape(&write::str(v)?),
    }
}

/// What a format of Markup puts in: numbers stay numbers, everything else is an escaped text.
fn operand(v: &Value) -> Result<Value> {
    match v {
        Value::Int(_) | Value::Float(_) | Value::Bool(_) => Ok(v.clone()),
        v => Ok(Value::Str(escaped(v)?)),
    }
}

fn operands(items: &[Value]) -> Result<Vec<Value>> {
    items.iter().map(operand).collect()
}

/// `made`, a text or several made of `s`, which is Markup if `s` is.
pub fn like(s: &Text, made: Value) -> Result<Value> {
    if !s.is_markup() {
        return Ok(made);
    }
    match made {
        Value::Str(made) => Ok(Value::Str(Text::markup(made.to_string())?)),
        Value::Seq(made) => Value::seq(made.kind, made.items.iter().map(|v| like(s, v.clone())).collect::<Result<_>>()?),
        made => Ok(made),
    }
}

fn plain(s: &Text) -> Result<Text> {
    Text::new(s.to_string())
}

/// A method of the Markup `s`.
pub fn method(s: &Text, name: &str, mut args: Args) -> Result<Value> {
    match (name, &mut args.positional[..]) {
        ("replace", [_, new, ..]) => *new = Value::Str(escaped(new)?),
        ("join", [items]) => *items = Value::list(items.items()?.items.iter().map(|v| escaped(v).map(Value::Str)).collect::<Result<_>>()?)?,
        ("format", items) => {
            for v in items.iter_mut().chain(args.named.iter_mut().map(|(_, v)| v)) {
                *v = operand(v)?;
            }
        }
        _ => {}
    }
    like(s, methods::str_method(&plain(s)?, name, args)?)
}

/// One of FILTERS of the Markup `s`.
pub fn filter(interpreter: &Interpreter, name: &str, s: &Text, mut args: Args) -> Result<Value> {
    if name == "format" {
        for v in args.positional.iter_mut().chain(args.named.iter_mut().map(|(_, v)| v)) {
            *v = operand(v)?;
        }
    }
    like(s, filters::apply(interpreter, name, &Value::Str(plain(s)?), args)?)
}

/// `+ * %` where Markup takes part.
pub fn math(sign: &str, a: &Value, b: &Value) -> Result<Option<Value>> {
    let is_markup = |v: &Value| matches!(v, Value::Str(s) if s.is_markup());
    let (left, right) = (is_markup(a), is_markup(b));
    Ok(match (sign, a, b) {
        ("+", Value::Str(_), Value::Str(_)) if left || right => {
            let mut out = Buffer::default();
            out.push(&escaped(a)?)?;
            out.push(&escaped(b)?)?;
            Some(Value::Str(Text::markup(out.finish())?))
        }
        ("*", Value::Str(s), n) | ("*", n, Value::Str(s)) if s.is_markup() && n.as_int().is_some() => Some(like(s, ops::math("*", &Value::Str(plain(s)?), n)?)?),
        ("%", Value::Str(s), args) if left => {
            let args = match args {
                Value::Seq(t) if t.kind == Kind::Tuple => Value::tuple(operands(&t.items)?)?,
                Value::Dict(d) => Value::dict(d.map.iter().map(|(key, v)| Ok((key.clone(), operand(v)?))).collect::<Result<_>>()?)?,
                v => operand(v)?,
            };
            Some(like(s, ops::math("%", &Value::Str(plain(s)?), &args)?)?)
        }
        _ => None,
    })
}
