//! The values of a template, and the budget of steps and bytes that a rendering has.
//!
//! Every piece of work is charged by its size, and texts, sequences and dicts count the bytes they hold until they are dropped: whatever a template
//! does, it ends within MAX_STEPS and MAX_LIVE. Sequences and dicts nest at most MAX_DEPTH levels and hold no namespace, so that walks, drops and
//! comparisons may be recursive and nothing holds itself.

use std::borrow::Borrow;
use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

use indexmap::IndexMap;

use super::eval::{Loop, Macro};

/// An expression's evaluation is a step, and so are STEP_BYTES that are copied and STEP_CHARS that are looked at: about 50 ns each.
pub const MAX_STEPS: u64 = 20_000_000;
const STEP_BYTES: usize = 64;
const STEP_CHARS: usize = 8;

/// Bytes that the values of one rendering may hold at a time.
pub const MAX_LIVE: usize = 256 << 20;

/// Bytes of one text, the rendered one included.
pub const MAX_TEXT: usize = 64 << 20;

/// Padding of a text: more is a mistake or an attack.
pub const MAX_WIDTH: usize = 4096;

/// Levels of sequences and dicts in each other.
pub const MAX_DEPTH: usize = 100;

pub type Result<T> = std::result::Result<T, String>;

thread_local! {
    static STEPS: Cell<u64> = const { Cell::new(0) };
    static LIVE: Cell<usize> = const { Cell::new(0) };
}

pub fn start_budget() {
    STEPS.set(MAX_STEPS);
    LIVE.set(0);
}

pub fn charge(steps: usize) -> Result<()> {
    let left = STEPS.get().checked_sub(steps as u64).ok_or_else(|| format!("the template takes more than {MAX_STEPS} steps"))?;
    STEPS.set(left);
    Ok(())
}

/// A copy of so many bytes of text.
pub fn charge_bytes(bytes: usize) -> Result<()> {
    charge(1 + bytes / STEP_BYTES)
}

/// A search in, or a change of, so many bytes of text.
pub fn charge_chars(bytes: usize) -> Result<()> {
    charge(1 + bytes / STEP_CHARS)
}

pub fn hold(bytes: usize) -> Result<()> {
    let live = LIVE.get() + bytes;
    if live > MAX_LIVE {
        return Err(format!("the template's values hold more than {MAX_LIVE} bytes"));
    }
    LIVE.set(live);
    Ok(())
}

pub fn release(bytes: usize) {
    LIVE.set(LIVE.get().saturating_sub(bytes));
}

/// Bytes of a value that is dropped when a function ends.
pub struct Held(usize);

impl Held {
    pub fn new(bytes: usize) -> Result<Held> {
        hold(bytes)?;
        Ok(Held(bytes))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        release(self.0);
    }
}

/// Refuses a text of so many bytes before it is made.
pub fn check_length(bytes: usize) -> Result<()> {
    if bytes > MAX_TEXT {
        return Err(format!("a text is longer than {MAX_TEXT} bytes"));
    }
    Ok(())
}

pub fn check_width(what: &str, n: usize) -> Result<()> {
    if n > MAX_WIDTH {
        return Err(format!("{what} of {n} characters; at most {MAX_WIDTH}"));
    }
    Ok(())
}

#[derive(Debug)]
struct TextBytes {
    s: Box<str>,
    held: usize,
    markup: bool,
}

impl Drop for TextBytes {
    fn drop(&mut self) {
        release(self.held);
    }
}

/// A shared text. Those of the template itself are held by no rendering, so that threads may share them.
#[derive(Clone, Debug)]
pub struct Text(Arc<TextBytes>);

impl Text {
    pub fn constant(s: &str) -> Text {
        Text(Arc::new(TextBytes { s: s.into(), held: 0, markup: false }))
    }

    pub fn new(s: String) -> Result<Text> {
        Text::made(s, false)
    }

    /// A text that counts as escaped (markup.rs).
    pub fn markup(s: String) -> Result<Text> {
        Text::made(s, true)
    }

    fn made(s: String, markup: bool) -> Result<Text> {
        check_length(s.len())?;
        charge_bytes(s.len())?;
        let held = s.len() + 64;
        hold(held)?;
        Ok(Text(Arc::new(TextBytes { s: s.into_boxed_str(), held, markup })))
    }

    pub fn is_markup(&self) -> bool {
        self.0.markup
    }

    pub fn is_same(&self, other: &Text) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Deref for Text {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0.s
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Text) -> bool {
        self.is_same(other) || **self == **other
    }
}

impl Eq for Text {}

impl Hash for Text {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state)
    }
}

impl Borrow<str> for Text {
    fn borrow(&self) -> &str {
        self
    }
}

/// A text while it is made.
#[derive(Default)]
pub struct Buffer {
    s: String,
    held: usize,
}

impl Buffer {
    pub fn push(&mut self, s: &str) -> Result<()> {
        check_length(self.s.len() + s.len())?;
        charge_bytes(s.len())?;
        if self.s.len() + s.len() > self.held {
            let more = (self.s.len() + s.len()).next_power_of_two().max(1024) - self.held;
            hold(more)?;
            self.held += more;
        }
        self.s.push_str(s);
        Ok(())
    }

    pub fn finish(mut self) -> String {
        std::mem::take(&mut self.s)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        release(self.held);
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    List,
    Tuple,
    Range(i64, i64, i64),
    Keys,
    Values,
    Items,
    /// What filters such as `select` give: it has no length, is always true and may be walked once.
    Generator,
}

#[derive(Debug)]
pub struct Seq {
    pub kind: Kind,
    pub items: Vec<Value>,
    depth: usize,
    spent: Cell<bool>,
    held: usize,
}

impl Drop for Seq {
    fn drop(&mut self) {
        release(self.held);
    }
}

/// A dict's key as Python hashes it: numbers of one value are one key.
#[derive(Clone, Debug)]
pub enum Key {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Text),
}

impl Key {
    fn number(&self) -> Option<i128> {
        match self {
            Key::Bool(b) => Some(*b as i128),
            Key::Int(i) => Some(*i),
            Key::Float(f) if f.fract() == 0.0 && f.abs() < 1e30 => Some(*f as i128),
            _ => None,
        }
    }

    pub fn value(&self) -> Value {
        match self {
            Key::None => Value::None,
            Key::Bool(b) => Value::Bool(*b),
            Key::Int(i) => Value::Int(*i),
            Key::Float(f) => Value::Float(*f),
            Key::Str(s) => Value::Str(s.clone()),
        }
    }

    pub fn of(v: &Value) -> Result<Key> {
        Ok(match v {
            Value::None => Key::None,
            Value::Bool(b) => Key::Bool(*b),
            Value::Int(i) => Key::Int(*i),
            Value::Float(f) => Key::Float(*f),
            Value::Str(s) => {
                charge_bytes(s.len())?;
                Key::Str(s.clone())
            }
            v => return Err(format!("unhashable type: '{}'", v.type_name())),
        })
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match (self, self.number()) {
            (_, Some(n)) => n.hash(state),
            (Key::Float(f), _) => f.to_bits().hash(state),
            // As a text hashes that is looked up without a key.
            (Key::Str(s), _) => (**s).hash(state),
            _ => 0u8.hash(state),
        }
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        match (self, other) {
            (Key::None, Key::None) => true,
            (Key::Str(a), Key::Str(b)) => a == b,
            (Key::Float(a), Key::Float(b)) => a == b,
            _ => self.number().is_some() && self.number() == other.number(),
        }
    }
}

impl Eq for Key {}

struct Name<'a>(&'a str);

impl Hash for Name<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state)
    }
}

impl indexmap::Equivalent<Key> for Name<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        matches!(key, Key::Str(s) if **s == *self.0)
    }
}

#[derive(Debug)]
pub struct Dict {
    pub map: IndexMap<Key, Value>,
    depth: usize,
    held: usize,
}

impl Dict {
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.map.get(&Name(name))
    }

    /// What Python finds under any value: what it hashes but no dict here has for a key is found nowhere.
    pub fn find(&self, key: &Value) -> Result<Option<&Value>> {
        match key {
            Value::Dict(_) => Key::of(key).map(|_| None),
            Value::Seq(s) if s.kind == Kind::List => Key::of(key).map(|_| None),
            Value::None | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Str(_) => Ok(self.map.get(&Key::of(key)?)),
            _ => Ok(None),
        }
    }
}

impl Drop for Dict {
    fn drop(&mut self) {
        release(self.held);
    }
}

/// Why a value is undefined, for the message of its use.
#[derive(Clone, Debug)]
pub enum Missing {
    Name(Text),
    Attribute(&'static str, Text),
    Element(&'static str, i128),
    Other(&'static str),
}

#[derive(Debug)]
pub struct Namespace(pub RefCell<IndexMap<Text, Value>>);

/// `cycler(...)`
#[derive(Debug)]
pub struct Cycler {
    pub items: Vec<Value>,
    pub at: Cell<usize>,
}

/// `joiner(...)`
#[derive(Debug)]
pub struct Joiner {
    pub between: Value,
    pub used: Cell<bool>,
}

#[derive(Clone, Debug)]
pub enum Value {
    Undefined(Missing),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Text),
    Seq(Rc<Seq>),
    Dict(Rc<Dict>),
    Namespace(Rc<Namespace>),
    Macro(Rc<Macro>),
    Loop(Rc<Loop>),
    Cycler(Rc<Cycler>),
    Joiner(Rc<Joiner>),
    Function(&'static str),
    Method(Rc<(Value, Text)>),
}

impl Value {
    pub fn text(s: impl Into<String>) -> Result<Value> {
        Ok(Value::Str(Text::new(s.into())?))
    }

    pub fn seq(kind: Kind, items: Vec<Value>) -> Result<Value> {
        charge(items.len())?;
        let depth = 1 + deepest(items.iter())?;
        let held = 96 + items.len() * std::mem::size_of::<Value>();
        hold(held)?;
        Ok(Value::Seq(Rc::new(Seq { kind, items, depth, spent: Cell::new(false), held })))
    }

    pub fn list(items: Vec<Value>) -> Result<Value> {
        Value::seq(Kind::List, items)
    }

    pub fn tuple(items: Vec<Value>) -> Result<Value> {
        Value::seq(Kind::Tuple, items)
    }

    pub fn texts<'a>(items: impl IntoIterator<Item = &'a str>) -> Result<Value> {
        Value::list(items.into_iter().map(Value::text).collect::<Result<_>>()?)
    }

    pub fn dict(map: IndexMap<Key, Value>) -> Result<Value> {
        charge(map.len())?;
        let depth = 1 + deepest(map.values())?;
        let held = 128 + map.len() * 2 * std::mem::size_of::<(usize, Key, Value)>();
        hold(held)?;
        Ok(Value::Dict(Rc::new(Dict { map, depth, held })))
    }

    pub fn missing(why: &'static str) -> Value {
        Value::Undefined(Missing::Other(why))
    }

    pub fn is_undefined(&self) -> bool {
        matches!(self, Value::Undefined(_))
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::Str(s) => Some(s),
            _ => None,
        }
    }

    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Undefined(_) => "Undefined",
            Value::None => "NoneType",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float",
            Value::Str(_) => "str",
            Value::Seq(s) => match s.kind {
                Kind::List => "list",
                Kind::Tuple => "tuple",
                Kind::Range(..) => "range",
                Kind::Keys => "dict_keys",
                Kind::Values => "dict_values",
                Kind::Items => "dict_items",
                Kind::Generator => "generator",
            },
            Value::Dict(_) => "dict",
            Value::Namespace(_) => "Namespace",
            Value::Macro(_) => "Macro",
            Value::Loop(_) => "LoopContext",
            Value::Cycler(_) => "Cycler",
            Value::Joiner(_) => "Joiner",
            Value::Function(_) => "function",
            Value::Method(_) => "builtin_function_or_method",
        }
    }

    pub fn is_true(&self) -> bool {
        match self {
            Value::Undefined(_) | Value::None => false,
            Value::Bool(b) => *b,
            Value::Int(i) => *i != 0,
            Value::Float(f) => *f != 0.0,
            Value::Str(s) => !s.is_empty(),
            Value::Seq(s) => s.kind == Kind::Generator || !s.items.is_empty(),
            Value::Dict(d) => !d.map.is_empty(),
            _ => true,
        }
    }

    pub fn is_same(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::None, Value::None) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Int(a), Value::Int(b)) => a == b,
            (Value::Str(a), Value::Str(b)) => a == b,
            (Value::Seq(a), Value::Seq(b)) => Rc::ptr_eq(a, b),
            (Value::Dict(a), Value::Dict(b)) => Rc::ptr_eq(a, b),
            (Value::Namespace(a), Value::Namespace(b)) => Rc::ptr_eq(a, b),
            (Value::Macro(a), Value::Macro(b)) => Rc::ptr_eq(a, b),
            (Value::Loop(a), Value::Loop(b)) => Rc::ptr_eq(a, b),
            (Value::Cycler(a), Value::Cycler(b)) => Rc::ptr_eq(a, b),
            (Value::Joiner(a), Value::Joiner(b)) => Rc::ptr_eq(a, b),
            (Value::Function(a), Value::Function(b)) => a == b,
            _ => false,
        }
    }

    /// The error of an operation that no undefined value has.
    pub fn defined(&self) -> Result<&Value> {
        match self {
            Value::Undefined(Missing::Name(name)) => Err(format!("'{}' is undefined", &**name)),
            Value::Undefined(Missing::Attribute(kind, name)) => Err(format!("'{kind} object' has no attribute '{}'", &**name)),
            Value::Undefined(Missing::Element(kind, i)) => Err(format!("{kind} object has no element {i}")),
            Value::Undefined(Missing::Other(why)) => Err(why.to_string()),
            v => Ok(v),
        }
    }

    pub fn len(&self) -> Result<usize> {
        match self {
            Value::Undefined(_) => Ok(0),
            Value::Str(s) => {
                charge_bytes(s.len())?;
                Ok(s.chars().count())
            }
            Value::Seq(s) if s.kind != Kind::Generator => Ok(s.items.len()),
            Value::Dict(d) => Ok(d.map.len()),
            v => Err(format!("object of type '{}' has no len()", v.type_name())),
        }
    }

    /// What a loop over the value meets.
    pub fn items(&self) -> Result<Rc<Seq>> {
        let items = match self {
            Value::Seq(s) if s.kind == Kind::Generator && s.spent.replace(true) => Vec::new(),
            Value::Seq(s) => return Ok(s.clone()),
            Value::Undefined(_) => Vec::new(),
            Value::Dict(d) => d.map.keys().map(Key::value).collect(),
            Value::Str(s) => {
                charge(s.len())?;
                s.chars().map(|c| Value::text(c)).collect::<Result<_>>()?
            }
            v => return Err(format!("'{}' object is not iterable", v.type_name())),
        };
        match Value::list(items)? {
            Value::Seq(s) => Ok(s),
            _ => Err("no list".to_string()),
        }
    }

    /// An int where Python takes one, a bool included.
    pub fn as_int(&self) -> Option<i128> {
        match self {
            Value::Int(i) => Some(*i),
            Value::Bool(b) => Some(*b as i128),
            _ => None,
        }
    }

    pub fn as_float(&self) -> Option<f64> {
        match self {
            Value::Float(f) => Some(*f),
            v => v.as_int().map(|i| i as f64),
        }
    }

    pub fn int(&self) -> Result<i64> {
        self.defined()?;
        let i = self.as_int().ok_or_else(|| format!("'{}' object cannot be interpreted as an integer", self.type_name()))?;
        i64::try_from(i).map_err(|_| "a number is too large".to_string())
    }
}

fn deepest<'a>(items: impl Iterator<Item = &'a Value>) -> Result<usize> {
    let mut depth = 0;
    for v in items {
        depth = depth.max(depth_of(v)?);
    }
    if depth >= MAX_DEPTH {
        return Err(format!("a value is nested too deep; at most {MAX_DEPTH} levels"));
    }
    Ok(depth)
}

fn depth_of(v: &Value) -> Result<usize> {
    Ok(match v {
        Value::Seq(s) => s.depth,
        Value::Dict(d) => d.depth,
        Value::Method(m) => depth_of(&m.0)? + 1,
        Value::Cycler(_) | Value::Joiner(_) | Value::Namespace(_) | Value::Loop(_) => {
            return Err(format!("a {} can be put into no list, dict or namespace", v.type_name()))
        }
        _ => 0,
    })
}

/// What a namespace, a cycler or a joiner may hold: anything but another of these, so that none ever holds itself.
pub fn check_held(v: &Value) -> Result<()> {
    depth_of(v).map(|_| ())
}

/// Python's `==`.
pub fn equal(a: &Value, b: &Value) -> Result<bool> {
    charge(1)?;
    Ok(match (a, b) {
        (Value::Undefined(_), Value::Undefined(_)) => true,
        (Value::Str(a), Value::Str(b)) => {
            charge_bytes(a.len().min(b.len()))?;
            a == b
        }
        (Value::Seq(x), Value::Seq(y)) => {
            if Rc::ptr_eq(x, y) {
                return Ok(true);
            }
            let same_kind = x.kind == y.kind || matches!((x.kind, y.kind), (Kind::Range(..), Kind::Range(..)));
            if !same_kind || x.kind == Kind::Generator || x.items.len() != y.items.len() {
                return Ok(false);
            }
            for (a, b) in x.items.iter().zip(&y.items) {
                if !equal(a, b)? {
                    return Ok(false);
                }
            }
            true
        }
        (Value::Dict(x), Value::Dict(y)) => {
            if Rc::ptr_eq(x, y) {
                return Ok(true);
            }
            if x.map.len() != y.map.len() {
                return Ok(false);
            }
            for (key, a) in &x.map {
                match y.map.get(key) {
                    Some(b) if equal(a, b)? => {}
                    _ => return Ok(false),
                }
            }
            true
        }
        (Value::Float(_), _) | (_, Value::Float(_)) => match (a.as_float(), b.as_float()) {
            (Some(a), Some(b)) => a == b,
            _ => false,
        },
        _ => match (a.as_int(), b.as_int()) {
            (Some(a), Some(b)) => a == b,
            _ => a.is_same(b),
        },
    })
}

/// Python's `<` and its like; `sign` is for the message.
pub fn compare(a: &Value, b: &Value, sign: &str) -> Result<Ordering> {
    charge(1)?;
    match (a, b) {
        (Value::Str(a), Value::Str(b)) => {
            charge_bytes(a.len().min(b.len()))?;
            return Ok(a.as_bytes().cmp(b.as_bytes()));
        }
        (Value::Seq(x), Value::Seq(y)) if x.kind == y.kind && matches!(x.kind, Kind::List | Kind::Tuple) => {
            for (a, b) in x.items.iter().zip(&y.items) {
                if !equal(a, b)? {
                    return compare(a, b, sign);
                }
            }
            return Ok(x.items.len().cmp(&y.items.len()));
        }
        _ => {}
    }
    if let (Some(a), Some(b)) = (a.as_int(), b.as_int()) {
        return Ok(a.cmp(&b));
    }
    match (a.as_float(), b.as_float()) {
        // Against a NaN every comparison is false: it sorts as neither.
        (Some(a), Some(b)) => Ok(a.partial_cmp(&b).unwrap_or(Ordering::Greater)),
        _ => {
            a.defined()?;
            b.defined()?;
            Err(format!("'{sign}' not supported between instances of '{}' and '{}'", a.type_name(), b.type_name()))
        }
    }
}

/// Python's `needle in hay`.
pub fn contains(hay: &Value, needle: &Value) -> Result<bool> {
    match hay {
        Value::Str(s) => {
            needle.defined()?;
            let Some(n) = needle.as_str() else { return Err(format!("'in <string>' requires string as left operand, not {}", needle.type_name())) };
            charge_chars(s.len())?;
            Ok(s.contains(n))
        }
        Value::Dict(d) => Ok(d.find(needle)?.is_some()),
        hay => {
            for item in &hay.items()?.items {
                if item.is_same(needle) || equal(item, needle)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
    }
}
