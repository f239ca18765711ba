//! Runs a parsed template.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use indexmap::IndexMap;

use super::ast::{Arguments, Block, Expr, ExprKind, For, Link, LinkKind, MacroDef, StmtKind, Target};
use super::value::{charge, charge_bytes, check_held, hold, Buffer, Cycler, Joiner, Key, Missing, Namespace, Result, Seq, Text, Value};
use super::ops::{attribute, compared, item, math, range, slice};
use super::{filters, methods, write, Now};

/// Evaluations in each other: a macro that calls itself takes about six a call.
const MAX_NESTED: usize = 1000;

#[derive(Debug)]
pub struct Scope {
    names: RefCell<HashMap<Text, Value>>,
    parent: Option<Rc<Scope>>,
}

impl Scope {
    pub fn new(parent: Option<Rc<Scope>>) -> Rc<Scope> {
        Rc::new(Scope { names: RefCell::default(), parent })
    }

    pub fn set(&self, name: &Text, value: Value) -> Result<()> {
        charge_bytes(name.len())?;
        self.names.borrow_mut().insert(name.clone(), value);
        Ok(())
    }

    fn get(&self, name: &str) -> Result<Option<Value>> {
        let mut scope = Some(self);
        let mut bytes = 0;
        let mut found = None;
        while let (Some(s), None) = (scope, &found) {
            // Each scope hashes the name anew.
            bytes += name.len() + 16;
            found = s.names.borrow().get(name).cloned();
            scope = s.parent.as_deref();
        }
        charge_bytes(bytes)?;
        Ok(found)
    }
}

pub struct Macro {
    pub def: Arc<MacroDef>,
    scope: Rc<Scope>,
}

pub struct Loop {
    pub items: Rc<Seq>,
    pub at: Cell<usize>,
    pub depth: usize,
    pub last_changed: RefCell<Option<Value>>,
    recursion: Option<(Arc<For>, Rc<Scope>)>,
}

impl std::fmt::Debug for Macro {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &*self.def.name {
            "" => write!(f, "<Macro anonymous>"),
            name => write!(f, "<Macro '{name}'>"),
        }
    }
}

impl std::fmt::Debug for Loop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "<LoopContext {}/{}>", self.at.get() + 1, self.items.items.len())
    }
}

/// What a call passes.
#[derive(Default)]
pub struct Args {
    pub positional: Vec<Value>,
    pub named: Vec<(Text, Value)>,
}

impl Args {
    /// The arguments by place or name.
    pub fn take<const N: usize>(&self, names: [&str; N]) -> Result<[Option<Value>; N]> {
        if self.positional.len() > N {
            return Err(format!("{} arguments, want at most {N}", self.positional.len()));
        }
        let mut out = [const { None }; N];
        for (slot, v) in out.iter_mut().zip(&self.positional) {
            *slot = Some(v.clone());
        }
        for (name, v) in &self.named {
            match names.iter().position(|n| *n == &**name) {
                Some(at) if out[at].is_none() => out[at] = Some(v.clone()),
                Some(_) => return Err(format!("got multiple values for argument '{}'", &**name)),
                None => return Err(format!("got an unexpected keyword argument '{}'", &**name)),
            }
        }
        Ok(out)
    }
}

enum Flow {
    On,
    Break,
    Continue,
}

pub struct Interpreter {
    now: Now,
    line: Cell<u32>,
    depth: Cell<usize>,
    /// Scopes that macros and recursive loops keep. They, and those around them, may hold these in turn: all are emptied at the end, so that
    /// nothing outlives the rendering.
    kept: RefCell<Vec<Rc<Scope>>>,
}

impl Drop for Interpreter {
    fn drop(&mut self) {
        let mut emptied = HashSet::new();
        for kept in self.kept.get_mut() {
            let mut scope = Some(&*kept);
            while let Some(s) = scope.filter(|s| emptied.insert(Rc::as_ptr(s))) {
                s.names.take();
                scope = s.parent.as_ref();
            }
        }
    }
}

impl Interpreter {
    pub fn new(now: Now) -> Interpreter {
        Interpreter { now, line: Cell::new(1), depth: Cell::new(0), kept: RefCell::default() }
    }

    /// The line that is run: after an error, where it happened.
    pub fn line(&self) -> u32 {
        self.line.get()
    }

    pub fn run(&self, block: &Block, scope: &Rc<Scope>, out: &mut Buffer) -> Result<()> {
        self.block(block, scope, out).map(|_| ())
    }

    pub fn strftime(&self, format: &str) -> Result<String> {
        self.now.format(format)
    }

    fn nested<T>(&self, f: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.depth.get() >= MAX_NESTED {
            return Err("maximum recursion depth exceeded".to_string());
        }
        self.depth.set(self.depth.get() + 1);
        let result = f();
        self.depth.set(self.depth.get() - 1);
        result
    }

    fn keep(&self, scope: &Rc<Scope>) -> Result<()> {
        hold(1024)?;
        self.kept.borrow_mut().push(scope.clone());
        Ok(())
    }

    fn block(&self, block: &Block, scope: &Rc<Scope>, out: &mut Buffer) -> Result<Flow> {
        self.nested(|| {
            for stmt in block {
                self.line.set(stmt.line);
                charge(1)?;
                match self.statement(&stmt.kind, scope, out)? {
                    Flow::On => {}
                    flow => return Ok(flow),
                }
            }
            Ok(Flow::On)
        })
    }

    fn statement(&self, stmt: &StmtKind, scope: &Rc<Scope>, out: &mut Buffer) -> Result<Flow> {
        match stmt {
            StmtKind::Data(s) => out.push(s)?,
            StmtKind::Print(e) => {
                write::push(out, &self.eval(e, scope)?)?;
            }
            StmtKind::If(branches, otherwise) => {
                for (test, body) in branches {
                    if self.eval(test, scope)?.is_true() {
                        return self.block(body, scope, out);
                    }
                }
                return self.block(otherwise, scope, out);
            }
            StmtKind::For(f) => {
                let iter = self.eval(&f.iter, scope)?;
                return self.for_loop(f, &iter, scope, 0, out);
            }
            StmtKind::Set(target, value) => {
                let value = self.eval(value, scope)?;
                self.assign(target, value, scope)?;
            }
            StmtKind::SetBlock(target, filters, body) => {
                let text = self.captured(body, &Scope::new(Some(scope.clone())))?;
                let value = self.chain(text, filters, scope)?;
                self.assign(target, value, scope)?;
            }
            StmtKind::Macro(def) => {
                let made = self.make_macro(def, scope)?;
                scope.set(&def.name, made)?;
            }
            StmtKind::Call(call, def) => {
                let caller = self.make_macro(def, scope)?;
                let ExprKind::Chain(first, links) = &call.kind else { return Err("expected call".to_string()) };
                let Some((Link { kind: LinkKind::Call(args), line }, before)) = links.split_last() else { return Err("expected call".to_string()) };
                let function = self.eval(first, scope)?;
                let function = self.chain(function, before, scope)?;
                let mut args = self.arguments(args, scope)?;
                args.named.push((Text::constant("caller"), caller));
                self.line.set(*line);
                let v = self.call(&function, args)?;
                write::push(out, &v)?;
            }
            StmtKind::Filter(filters, body) => {
                let text = self.captured(body, &Scope::new(Some(scope.clone())))?;
                write::push(out, &self.chain(text, filters, scope)?)?;
            }
            StmtKind::With(values, body) => {
                let inner = Scope::new(Some(scope.clone()));
                for (target, value) in values {
                    let value = self.eval(value, scope)?;
                    self.assign(target, value, &inner)?;
                }
                return self.block(body, &inner, out);
            }
            StmtKind::Do(e) => {
                self.eval(e, scope)?;
            }
            StmtKind::Break => return Ok(Flow::Break),
            StmtKind::Continue => return Ok(Flow::Continue),
            StmtKind::Scope(body) => return self.block(body, &Scope::new(Some(scope.clone())), out),
        }
        Ok(Flow::On)
    }

    fn captured(&self, body: &Block, scope: &Rc<Scope>) -> Result<Value> {
        let mut out = Buffer::default();
        self.block(body, scope, &mut out)?;
        Value::text(out.finish())
    }

    fn make_macro(&self, def: &Arc<MacroDef>, scope: &Rc<Scope>) -> Result<Value> {
        self.keep(scope)?;
        Ok(Value::Macro(Rc::new(Macro { def: def.clone(), scope: scope.clone() })))
    }

    fn assign(&self, target: &Target, value: Value, scope: &Rc<Scope>) -> Result<()> {
        match target {
            Target::Name(name) => scope.set(name, value)?,
            Target::Attribute(name, attribute) => match scope.get(name)? {
                Some(Value::Namespace(ns)) => {
                    check_held(&value)?;
                    charge_bytes(attribute.len())?;
                    ns.0.borrow_mut().insert(attribute.clone(), value);
                }
                _ => return Err("cannot assign attribute on non-namespace object".to_string()),
            },
            Target::Tuple(targets) => {
                let items = value.items()?;
                charge(items.items.len().min(targets.len()))?;
                match items.items.len() {
                    n if n < targets.len() => return Err(format!("not enough values to unpack (expected {}, got {n})", targets.len())),
                    n if n > targets.len() => return Err(format!("too many values to unpack (expected {})", targets.len())),
                    _ => {}
                }
                for (target, v) in targets.iter().zip(&items.items) {
                    self.assign(target, v.clone(), scope)?;
                }
            }
        }
        Ok(())
    }

    fn for_loop(&self, f: &Arc<For>, iter: &Value, scope: &Rc<Scope>, depth: usize, out: &mut Buffer) -> Result<Flow> {
        let mut items = iter.items()?;
        if let Some(test) = &f.test {
            let mut kept = Vec::new();
            for v in &items.items {
                charge(4)?;
                let inner = Scope::new(Some(scope.clone()));
                self.assign(&f.target, v.clone(), &inner)?;
                if self.eval(test, &inner)?.is_true() {
                    kept.push(v.clone());
                }
            }
            items = Value::list(kept)?.items()?;
        }
        let recursion = if f.recursive {
            self.keep(scope)?;
            Some((f.clone(), scope.clone()))
        } else {
            None
        };
        let state = Rc::new(Loop { items: items.clone(), at: Cell::new(0), depth, last_changed: RefCell::new(None), recursion });
        let name = Text::constant("loop");
        // As Jinja2 compiles it: `else` is taken where no pass reaches the body's end.
        let mut reached_end = false;
        for (i, v) in items.items.iter().enumerate() {
            charge(4)?;
            state.at.set(i);
            let inner = Scope::new(Some(scope.clone()));
            self.assign(&f.target, v.clone(), &inner)?;
            inner.set(&name, Value::Loop(state.clone()))?;
            match self.block(&f.body, &inner, out)? {
                Flow::On => reached_end = true,
                Flow::Break => break,
                Flow::Continue => {}
            }
        }
        if !reached_end {
            self.block(&f.otherwise, &Scope::new(Some(scope.clone())), out)?;
        }
        Ok(Flow::On)
    }

    pub fn eval(&self, e: &Expr, scope: &Rc<Scope>) -> Result<Value> {
        charge(1)?;
        self.line.set(e.line);
        match &e.kind {
            ExprKind::Name(name) => self.lookup(name, scope),
            ExprKind::Str(s) => Ok(Value::Str(s.clone())),
            ExprKind::Int(i) => Ok(Value::Int(*i)),
            ExprKind::Float(f) => Ok(Value::Float(*f)),
            ExprKind::Bool(b) => Ok(Value::Bool(*b)),
            ExprKind::None => Ok(Value::None),
            kind => self.nested(|| self.compound(kind, e.line, scope)),
        }
    }

    fn all(&self, items: &[Expr], scope: &Rc<Scope>) -> Result<Vec<Value>> {
        items.iter().map(|e| self.eval(e, scope)).collect()
    }

    fn compound(&self, kind: &ExprKind, line: u32, scope: &Rc<Scope>) -> Result<Value> {
        match kind {
            ExprKind::List(items) => Value::list(self.all(items, scope)?),
            ExprKind::Tuple(items) => Value::tuple(self.all(items, scope)?),
            ExprKind::Dict(items) => {
                let mut map = IndexMap::new();
                for (key, value) in items {
                    let key = Key::of(&self.eval(key, scope)?)?;
                    map.insert(key, self.eval(value, scope)?);
                }
                Value::dict(map)
            }
            ExprKind::Or(items) | ExprKind::And(items) => {
                let until = matches!(kind, ExprKind::Or(_));
                let mut value = Value::None;
                for e in items {
                    value = self.eval(e, scope)?;
                    if value.is_true() == until {
                        break;
                    }
                }
                Ok(value)
            }
            ExprKind::Not(n, e) => Ok(Value::Bool(self.eval(e, scope)?.is_true() == (n % 2 == 0))),
            ExprKind::Signs(signs, e) => {
                let mut value = self.eval(e, scope)?;
                for &minus in signs.iter().rev() {
                    charge(1)?;
                    value = match (&value, value.as_int()) {
                        (Value::Float(f), _) => Value::Float(if minus { -f } else { *f }),
                        (_, Some(i)) => Value::Int(if minus { i.checked_neg().ok_or("a number is too large")? } else { i }),
                        (v, None) => {
                            v.defined()?;
                            return Err(format!("bad operand type for unary {}: '{}'", if minus { '-' } else { '+' }, v.type_name()));
                        }
                    };
                }
                Ok(value)
            }
            ExprKind::Compare(first, rest) => {
                let mut left = self.eval(first, scope)?;
                for (op, e) in rest {
                    let right = self.eval(e, scope)?;
                    self.line.set(line);
                    if !compared(*op, &left, &right)? {
                        return Ok(Value::Bool(false));
                    }
                    left = right;
                }
                Ok(Value::Bool(true))
            }
            ExprKind::Math(first, rest) => {
                let mut left = self.eval(first, scope)?;
                for (sign, e) in rest {
                    let right = self.eval(e, scope)?;
                    self.line.set(line);
                    left = math(sign, &left, &right)?;
                }
                Ok(left)
            }
            ExprKind::Concat(items) => {
                let mut out = Buffer::default();
                for e in items {
                    write::push(&mut out, &self.eval(e, scope)?)?;
                }
                Value::text(out.finish())
            }
            ExprKind::If(branches, otherwise) => {
                for (value, test) in branches {
                    if self.eval(test, scope)?.is_true() {
                        return self.eval(value, scope);
                    }
                }
                match otherwise {
                    Some(e) => self.eval(e, scope),
                    None => Ok(Value::missing("the inline if-expression evaluated to false and no else section was defined.")),
                }
            }
            ExprKind::Chain(first, links) => {
                let value = self.eval(first, scope)?;
                self.chain(value, links, scope)
            }
            _ => Err("no compound".to_string()),
        }
    }

    fn lookup(&self, name: &Text, scope: &Rc<Scope>) -> Result<Value> {
        if let Some(v) = scope.get(name)? {
            return Ok(v);
        }
        Ok(match ["range", "dict", "namespace", "cycler", "joiner", "raise_exception", "strftime_now"].iter().find(|f| **f == &**name) {
            Some(f) => Value::Function(f),
            None => Value::Undefined(Missing::Name(name.clone())),
        })
    }

    fn chain(&self, mut value: Value, links: &[Link], scope: &Rc<Scope>) -> Result<Value> {
        let mut i = 0;
        while i < links.len() {
            let link = &links[i];
            i += 1;
            charge(1)?;
            self.line.set(link.line);
            value = match &link.kind {
                LinkKind::Attribute(name) => match links.get(i).map(|l| &l.kind) {
                    // A method is called without being made first.
                    Some(LinkKind::Call(args)) if methods::has(&value, name) => {
                        i += 1;
                        let args = self.arguments(args, scope)?;
                        self.line.set(link.line);
                        methods::call(&value, name, args)?
                    }
                    _ => attribute(&value, name)?,
                },
                LinkKind::Item(e) => {
                    let key = self.eval(e, scope)?;
                    self.line.set(link.line);
                    item(&value, &key)?
                }
                LinkKind::Slice(parts) => {
                    let mut border = [None; 3];
                    for (border, part) in border.iter_mut().zip(parts.iter()) {
                        if let Some(e) = part {
                            let v = self.eval(e, scope)?;
                            *border = if let Value::None = v { None } else { Some(v.int()?) };
                        }
                    }
                    slice(&value, border)?
                }
                LinkKind::Call(args) => {
                    let args = self.arguments(args, scope)?;
                    self.line.set(link.line);
                    self.call(&value, args)?
                }
                LinkKind::Filter(name, args) => {
                    let args = self.arguments(args, scope)?;
                    self.line.set(link.line);
                    filters::apply(self, name, &value, args)?
                }
                LinkKind::Test(name, negated, args) => {
                    let args = self.arguments(args, scope)?;
                    self.line.set(link.line);
                    Value::Bool(filters::test(name, &value, &args)? != *negated)
                }
            };
        }
        Ok(value)
    }

    fn arguments(&self, args: &Arguments, scope: &Rc<Scope>) -> Result<Args> {
        let mut out = Args::default();
        for (spread, e) in &args.positional {
            let v = self.eval(e, scope)?;
            if *spread {
                let items = v.items()?;
                charge(items.items.len())?;
                out.positional.extend(items.items.iter().cloned());
            } else {
                out.positional.push(v);
            }
        }
        for (name, e) in &args.named {
            let v = self.eval(e, scope)?;
            charge_bytes(name.as_ref().map_or(0, |name| name.len()))?;
            match (name, &v) {
                (Some(name), _) => out.named.push((name.clone(), v)),
                (None, Value::Dict(d)) => {
                    charge(d.map.len())?;
                    for (key, v) in &d.map {
                        let Key::Str(key) = key else { return Err("keywords must be strings".to_string()) };
                        out.named.push((key.clone(), v.clone()));
                    }
                }
                (None, v) => return Err(format!("argument after ** must be a mapping, not {}", v.type_name())),
            }
        }
        Ok(out)
    }

    pub fn call(&self, function: &Value, args: Args) -> Result<Value> {
        function.defined()?;
        match function {
            Value::Macro(m) => self.call_macro(m, args),
            Value::Method(m) => methods::call(&m.0, &m.1, args),
            Value::Function(name) => self.call_function(name, args),
            Value::Loop(l) => {
                let [iter] = args.take(["iterable"])?;
                let Some((f, scope)) = &l.recursion else {
                    return Err("The loop must have the 'recursive' marker to be called recursively.".to_string());
                };
                let mut out = Buffer::default();
                self.for_loop(f, &iter.unwrap_or(Value::None), scope, l.depth + 1, &mut out)?;
                Value::text(out.finish())
            }
            Value::Joiner(j) => {
                let first = !j.used.replace(true);
                if first { Value::text("") } else { Ok(j.between.clone()) }
            }
            v => Err(format!("'{}' object is not callable", v.type_name())),
        }
    }

    fn call_macro(&self, m: &Rc<Macro>, args: Args) -> Result<Value> {
        charge(4)?;
        let def = &m.def;
        let scope = Scope::new(Some(m.scope.clone()));
        // Each parameter is looked for among the names that are passed.
        charge(def.parameters.len() * (1 + args.named.len() / 8))?;
        let mut named = args.named;
        let mut take = |name: &str| named.iter().position(|(n, _)| &**n == name).map(|at| named.swap_remove(at).1);
        let mut positional = args.positional.into_iter();
        for (name, otherwise) in &def.parameters {
            let given = match positional.next() {
                Some(v) => Some(v),
                None => take(name),
            };
            let v = match (given, otherwise) {
                (Some(v), _) => v,
                (None, Some(e)) => self.eval(e, &scope)?,
                (None, None) => Value::Undefined(Missing::Name(name.clone())),
            };
            scope.set(name, v)?;
        }
        if def.uses_caller {
            let name = Text::constant("caller");
            let caller = take("caller").unwrap_or(Value::missing("No caller defined"));
            scope.set(&name, caller)?;
        }
        let rest: Vec<Value> = positional.collect();
        if def.uses_varargs {
            scope.set(&Text::constant("varargs"), Value::tuple(rest)?)?;
        } else if !rest.is_empty() {
            return Err(format!("macro '{}' takes not more than {} argument(s)", &*def.name, def.parameters.len()));
        }
        if def.uses_kwargs {
            scope.set(&Text::constant("kwargs"), Value::dict(named.into_iter().map(|(name, v)| (Key::Str(name), v)).collect())?)?;
        } else if let Some((name, _)) = named.first() {
            return Err(format!("macro '{}' takes no keyword argument '{}'", &*def.name, &**name));
        }
        self.captured(&def.body, &scope)
    }

    fn call_function(&self, name: &str, args: Args) -> Result<Value> {
        match name {
            "range" => range(&args),
            "dict" => {
                let [from] = Args { positional: args.positional, named: Vec::new() }.take(["mapping"])?;
                let mut map = match from {
                    Some(Value::Dict(d)) => d.map.clone(),
                    Some(v) => {
                        let mut map = IndexMap::new();
                        for pair in &v.items()?.items {
                            let pair = pair.items()?;
                            let [key, value] = &pair.items[..] else { return Err("a dict's element is no pair".to_string()) };
                            map.insert(Key::of(key)?, value.clone());
                        }
                        map
                    }
                    None => IndexMap::new(),
                };
                map.extend(args.named.into_iter().map(|(name, v)| (Key::Str(name), v)));
                Value::dict(map)
            }
            "namespace" => {
                let [from] = Args { positional: args.positional, named: Vec::new() }.take(["mapping"])?;
                let mut map = IndexMap::new();
                if let Some(Value::Dict(d)) = from {
                    for (key, v) in &d.map {
                        let Key::Str(name) = key else { continue };
                        map.insert(name.clone(), v.clone());
                    }
                }
                map.extend(args.named);
                map.values().try_for_each(check_held)?;
                charge(map.len())?;
                Ok(Value::Namespace(Rc::new(Namespace(RefCell::new(map)))))
            }
            "cycler" => {
                if args.positional.is_empty() {
                    return Err("at least one item has to be provided".to_string());
                }
                args.positional.iter().try_for_each(check_held)?;
                Ok(Value::Cycler(Rc::new(Cycler { items: args.positional, at: Cell::new(0) })))
            }
            "joiner" => {
                let [between] = args.take(["sep"])?;
                let between = between.map_or_else(|| Value::text(", "), Ok)?;
                check_held(&between)?;
                Ok(Value::Joiner(Rc::new(Joiner { between, used: Cell::new(false) })))
            }
            "raise_exception" => {
                let [message] = args.take(["message"])?;
                Err(write::str(&message.unwrap_or(Value::None))?)
            }
            "strftime_now" => {
                let [format] = args.take(["format"])?;
                let format = write::str(&format.unwrap_or(Value::None))?;
                super::value::check_width("a format", format.len())?;
                Value::text(self.strftime(&format)?)
            }
            _ => Err(format!("'{name}' is undefined")),
        }
    }
}
