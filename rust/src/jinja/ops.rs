//! Operators on values: arithmetic, comparisons, attributes, items and slices.

use std::cmp::Ordering;
use std::rc::Rc;

use super::ast::Compare;
use super::eval::{Args, Loop};
use super::methods;
use super::value::{charge, charge_bytes, check_length, compare, contains, equal, Held, Key, Kind, Missing, Result, Text, Value};
use super::{markup, write};

/// Jinja2's sandbox makes no longer range.
const MAX_RANGE: i64 = 100_000;

pub fn range(args: &Args) -> Result<Value> {
    let [a, b, c] = args.take(["start", "stop", "step"])?;
    let Some(a) = a else { return Err("range expected at least 1 argument, got 0".to_string()) };
    let (start, stop) = match b {
        Some(b) => (a.int()?, b.int()?),
        None => (0, a.int()?),
    };
    let step = c.map_or(Ok(1), |c| c.int())?;
    if step == 0 {
        return Err("range() arg 3 must not be zero".to_string());
    }
    let span = if step > 0 { stop as i128 - start as i128 } else { start as i128 - stop as i128 };
    let n = if span > 0 { (span - 1) / (step as i128).abs() + 1 } else { 0 };
    if n > MAX_RANGE as i128 {
        return Err(format!("Range too big. The sandbox blocks ranges larger than MAX_RANGE ({MAX_RANGE})."));
    }
    let items = (0..n).map(|i| Value::Int(start as i128 + i * step as i128)).collect();
    Value::seq(Kind::Range(start, stop, step), items)
}

pub fn compared(op: Compare, a: &Value, b: &Value) -> Result<bool> {
    Ok(match op {
        Compare::In => contains(b, a)?,
        Compare::NotIn => !contains(b, a)?,
        Compare::Sign("==") => equal(a, b)?,
        Compare::Sign("!=") => !equal(a, b)?,
        Compare::Sign(sign) => ordered(sign, a, b)?,
    })
}

/// `<` and its like.
pub fn ordered(sign: &str, a: &Value, b: &Value) -> Result<bool> {
    let order = compare(a, b, sign)?;
    if [a, b].iter().any(|v| matches!(v, Value::Float(f) if f.is_nan())) {
        return Ok(false);
    }
    Ok(match sign {
        "<" => order == Ordering::Less,
        "<=" => order != Ordering::Greater,
        ">" => order == Ordering::Greater,
        _ => order != Ordering::Less,
    })
}

fn repeated(n: i128, bytes: usize) -> Result<usize> {
    let n = usize::try_from(n.max(0)).unwrap_or(usize::MAX);
    check_length(n.saturating_mul(bytes))?;
    Ok(if bytes == 0 { 0 } else { n })
}

pub fn math(sign: &str, a: &Value, b: &Value) -> Result<Value> {
    charge(1)?;
    if let Some(made) = markup::math(sign, a, b)? {
        return Ok(made);
    }
    match (sign, a, b) {
        ("+", Value::Str(a), Value::Str(b)) => {
            check_length(a.len() + b.len())?;
            return Value::text([&**a, &**b].concat());
        }
        ("+", Value::Seq(x), Value::Seq(y)) if x.kind == y.kind && matches!(x.kind, Kind::List | Kind::Tuple) => {
            let n = x.items.len() + y.items.len();
            charge(n)?;
            Held::new(n * std::mem::size_of::<Value>())?;
            return Value::seq(x.kind, x.items.iter().chain(&y.items).cloned().collect());
        }
        ("*", Value::Str(s), n) | ("*", n, Value::Str(s)) if n.as_int().is_some() => {
            let n = repeated(n.as_int().unwrap_or(0), s.len())?;
            return Value::text(s.repeat(n));
        }
        ("*", Value::Seq(s), n) | ("*", n, Value::Seq(s)) if n.as_int().is_some() && matches!(s.kind, Kind::List | Kind::Tuple) => {
            let n = repeated(n.as_int().unwrap_or(0), s.items.len() * std::mem::size_of::<Value>())?;
            charge(n * s.items.len())?;
            let items = (0..n).flat_map(|_| s.items.iter().cloned()).collect();
            return Value::seq(s.kind, items);
        }
        ("%", Value::Str(s), args) => {
            return match args {
                Value::Seq(t) if t.kind == Kind::Tuple => Value::text(write::percent(s, &t.items)?),
                v => Value::text(write::percent(s, std::slice::from_ref(v))?),
            };
        }
        _ => {}
    }
    let too_large = || "a number is too large".to_string();
    if let (Some(a), Some(b)) = (a.as_int(), b.as_int()) {
        let by_zero = b == 0 && matches!(sign, "/" | "//" | "%");
        if by_zero {
            return Err(if sign == "/" { "division by zero" } else { "integer division or modulo by zero" }.to_string());
        }
        return Ok(match sign {
            "+" => Value::Int(a.checked_add(b).ok_or_else(too_large)?),
            "-" => Value::Int(a.checked_sub(b).ok_or_else(too_large)?),
            "*" => Value::Int(a.checked_mul(b).ok_or_else(too_large)?),
            "/" => Value::Float(a as f64 / b as f64),
            "//" => {
                let q = a.checked_div(b).ok_or_else(too_large)?;
                Value::Int(if a % b != 0 && (a < 0) != (b < 0) { q - 1 } else { q })
            }
            "%" => {
                let r = a.checked_rem(b).ok_or_else(too_large)?;
                Value::Int(if r != 0 && (r < 0) != (b < 0) { r + b } else { r })
            }
            _ if b < 0 => Value::Float((a as f64).powf(b as f64)),
            _ => Value::Int(u32::try_from(b).ok().and_then(|b| a.checked_pow(b)).ok_or_else(too_large)?),
        });
    }
    if let (Some(a), Some(b)) = (a.as_float(), b.as_float()) {
        if b == 0.0 && matches!(sign, "/" | "//" | "%") {
            return Err(match sign {
                "/" => "float division by zero",
                "//" => "float floor division by zero",
                _ => "float modulo",
            }
            .to_string());
        }
        return Ok(Value::Float(match sign {
            "+" => a + b,
            "-" => a - b,
            "*" => a * b,
            "/" => a / b,
            "//" => (a / b).floor(),
            "%" => {
                let r = a % b;
                if r == 0.0 {
                    0f64.copysign(b)
                } else {
                    r + if (r < 0.0) != (b < 0.0) { b } else { 0.0 }
                }
            }
            _ => a.powf(b),
        }));
    }
    a.defined()?;
    b.defined()?;
    Err(match (sign, a) {
        ("+", Value::Str(_)) => format!("can only concatenate str (not \"{}\") to str", b.type_name()),
        ("+", Value::Seq(_)) => format!("can only concatenate {0} (not \"{1}\") to {0}", a.type_name(), b.type_name()),
        _ => format!("unsupported operand type(s) for {}: '{}' and '{}'", if sign == "**" { "** or pow()" } else { sign }, a.type_name(), b.type_name()),
    })
}

/// An index of Python among n.
fn place(i: i64, n: usize) -> Option<usize> {
    let at = if i < 0 { i + n as i64 } else { i };
    usize::try_from(at).ok().filter(|at| *at < n)
}

/// `value.name`: an attribute or method, then an item.
pub fn attribute(v: &Value, name: &Text) -> Result<Value> {
    v.defined()?;
    if methods::has(v, name) {
        return Ok(Value::Method(Rc::new((v.clone(), name.clone()))));
    }
    if methods::is_unsafe(v, name) {
        return Err(format!("access to attribute '{}' of '{}' object is unsafe.", &**name, v.type_name()));
    }
    let found = match v {
        Value::Dict(d) => {
            charge_bytes(name.len())?;
            d.get(name).cloned()
        }
        Value::Namespace(ns) => ns.0.borrow().get(name).cloned(),
        Value::Loop(l) => loop_attribute(l, name)?,
        Value::Macro(m) => match &**name {
            "name" if m.def.name.is_empty() => Some(Value::None),
            "name" => Some(Value::Str(m.def.name.clone())),
            "arguments" => Some(Value::tuple(m.def.parameters.iter().map(|p| Value::Str(p.0.clone())).collect())?),
            _ => None,
        },
        Value::Cycler(c) if &**name == "current" => Some(c.items[c.at.get()].clone()),
        Value::Seq(s) if s.kind == Kind::Tuple && s.items.len() == 2 && matches!(&**name, "grouper" | "list") => Some(s.items[(&**name == "list") as usize].clone()),
        _ => None,
    };
    Ok(found.unwrap_or_else(|| Value::Undefined(Missing::Attribute(v.type_name(), name.clone()))))
}

fn loop_attribute(l: &Loop, name: &str) -> Result<Option<Value>> {
    let (at, n) = (l.at.get(), l.items.items.len());
    let int = |i: usize| Some(Value::Int(i as i128));
    Ok(match name {
        "index" => int(at + 1),
        "index0" => int(at),
        "revindex" => int(n - at),
        "revindex0" => int(n - at - 1),
        "length" => int(n),
        "depth" => int(l.depth + 1),
        "depth0" => int(l.depth),
        "first" => Some(Value::Bool(at == 0)),
        "last" => Some(Value::Bool(at + 1 == n)),
        "previtem" => Some(match at {
            0 => Value::missing("there is no previous item"),
            at => l.items.items[at - 1].clone(),
        }),
        "nextitem" => Some(l.items.items.get(at + 1).cloned().unwrap_or(Value::missing("there is no next item"))),
        _ => None,
    })
}

/// `loop.changed(...)`
pub fn changed(l: &Loop, args: Vec<Value>) -> Result<Value> {
    let now = Value::tuple(args)?;
    let same = match &*l.last_changed.borrow() {
        Some(last) => equal(last, &now)?,
        None => false,
    };
    l.last_changed.replace(Some(now));
    Ok(Value::Bool(!same))
}

pub fn cycle(l: &Loop, args: Vec<Value>) -> Result<Value> {
    if args.is_empty() {
        return Err("no items for cycling given".to_string());
    }
    Ok(args[l.at.get() % args.len()].clone())
}

/// `value[key]`: an item, then an attribute.
pub fn item(v: &Value, key: &Value) -> Result<Value> {
    v.defined()?;
    let missing = || {
        Ok(match (key, key.as_int()) {
            (Value::Str(name), _) => Value::Undefined(Missing::Attribute(v.type_name(), name.clone())),
            (_, Some(i)) => Value::Undefined(Missing::Element(v.type_name(), i)),
            _ => Value::missing("the value has no such element"),
        })
    };
    match v {
        Value::Dict(d) => {
            let found = match key {
                Value::Str(s) => {
                    charge_bytes(s.len())?;
                    d.get(s)
                }
                key => Key::of(key).ok().and_then(|key| d.map.get(&key)),
            };
            if let Some(found) = found {
                return Ok(found.clone());
            }
        }
        Value::Seq(s) if !matches!(s.kind, Kind::Generator | Kind::Keys | Kind::Values | Kind::Items) => {
            if let Some(i) = key.as_int() {
                return match i64::try_from(i).ok().and_then(|i| place(i, s.items.len())) {
                    Some(at) => Ok(s.items[at].clone()),
                    None => missing(),
                };
            }
        }
        Value::Str(s) => {
            if let Some(i) = key.as_int() {
                charge_bytes(s.len())?;
                let at = i64::try_from(i).ok().and_then(|i| place(i, s.chars().count()));
                return match at.and_then(|at| s.chars().nth(at)) {
                    Some(c) => markup::like(s, Value::text(c)?),
                    None => missing(),
                };
            }
        }
        _ => {}
    }
    match key {
        Value::Str(name) => match attribute(v, name)? {
            // An attribute that a dict does not have as an item either.
            Value::Undefined(_) => missing(),
            found => Ok(found),
        },
        _ => missing(),
    }
}

/// `value[begin:end:step]`
pub fn slice(v: &Value, [begin, end, step]: [Option<i64>; 3]) -> Result<Value> {
    v.defined()?;
    let n = match v {
        Value::Str(_) => v.len()?,
        Value::Seq(s) if matches!(s.kind, Kind::List | Kind::Tuple | Kind::Range(..)) => s.items.len(),
        v => return Err(format!("'{}' object is not subscriptable", v.type_name())),
    } as i64;
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err("slice step cannot be zero".to_string());
    }
    // Borders as Python moves them: between 0 and n, a step lower where it goes backwards.
    let (low, high) = if step > 0 { (0, n) } else { (-1, n - 1) };
    let border = |i: i64| if i < 0 { i.saturating_add(n).max(low) } else { i.min(high) };
    let (first, last) = (begin.map_or(if step > 0 { low } else { high }, border), end.map_or(if step > 0 { high } else { low }, border));
    let span = if step > 0 { last - first } else { first - last };
    let count = if span > 0 { (span - 1) / step.saturating_abs() + 1 } else { 0 } as usize;
    charge(count)?;
    let at = |i: usize| (first + i as i64 * step) as usize;
    match v {
        Value::Seq(s) => {
            let kind = if s.kind == Kind::Tuple { Kind::Tuple } else { Kind::List };
            Value::seq(kind, (0..count).map(|i| s.items[at(i)].clone()).collect())
        }
        Value::Str(s) if step == 1 => markup::like(s, Value::text(s.chars().skip(first as usize).take(count).collect::<String>())?),
        Value::Str(s) => {
            let _held = Held::new(s.len() * 4)?;
            let chars: Vec<char> = s.chars().collect();
            markup::like(s, Value::text((0..count).map(|i| chars[at(i)]).collect::<String>())?)
        }
        _ => Ok(Value::None),
    }
}
