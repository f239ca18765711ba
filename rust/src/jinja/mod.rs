//! Chat templates as Transformers renders them: Jinja2's language, immutable sandbox, trim_blocks and lstrip_blocks, with its `tojson`,
//! `raise_exception`, `strftime_now`, loop controls and the `generation` block. A template and its variables come from strangers: one rendering is
//! bounded in steps, bytes and depth (value.rs), and an error names the line.

mod ast;
mod eval;
mod filters;
mod lexer;
mod markup;
mod methods;
mod ops;
mod parser;
mod value;
mod write;

use std::ffi::c_void;

use indexmap::IndexMap;

use eval::{Interpreter, Scope};
use value::{Buffer, Key, Text, Value};

/// Bytes of a template's source.
const MAX_SOURCE: usize = 1 << 20;

pub type Strftime = extern "C" fn(clock: *const c_void, format: *const u8, n: usize, out: *mut u8, capacity: usize) -> usize;

#[derive(Clone, Copy)]
pub struct Now {
    pub strftime: Strftime,
    pub clock: *const c_void,
}

impl Now {
    fn format(&self, format: &str) -> value::Result<String> {
        let mut buffer = vec![0u8; 256 + 16 * format.len()];
        let n = (self.strftime)(self.clock, format.as_ptr(), format.len(), buffer.as_mut_ptr(), buffer.len());
        buffer.truncate(n);
        Ok(String::from_utf8_lossy(&buffer).into_owned())
    }
}

pub struct ChatTemplate {
    block: ast::Block,
}

fn value_of(json: serde_json::Value) -> value::Result<Value> {
    use serde_json::Value as Json;
    Ok(match json {
        Json::Null => Value::None,
        Json::Bool(b) => Value::Bool(b),
        Json::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(i), _) => Value::Int(i as i128),
            (_, Some(u)) => Value::Int(u as i128),
            _ => Value::Float(n.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(s) => Value::text(s)?,
        Json::Array(items) => Value::list(items.into_iter().map(value_of).collect::<value::Result<_>>()?)?,
        Json::Object(entries) => {
            let mut map = IndexMap::with_capacity(entries.len());
            for (key, v) in entries {
                map.insert(Key::Str(Text::new(key)?), value_of(v)?);
            }
            Value::dict(map)?
        }
    })
}

impl ChatTemplate {
    pub fn new(source: &str) -> Result<ChatTemplate, String> {
        if source.len() > MAX_SOURCE {
            return Err(format!("chat template: {} bytes; at most {MAX_SOURCE}", source.len()));
        }
        let block = parser::parse(source).map_err(|(line, message)| format!("chat template: line {line}: {message}"))?;
        Ok(ChatTemplate { block })
    }

    /// `context`: the variables, a JSON object.
    pub fn render(&self, context: &[u8], now: Now) -> Result<String, String> {
        let context: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(context).map_err(|e| format!("chat template: its variables are not JSON: {e}"))?;
        value::start_budget();
        let scope = Scope::new(None);
        for (name, v) in context {
            let name = Text::new(name).map_err(|e| format!("chat template: {e}"))?;
            value_of(v).and_then(|v| scope.set(&name, v)).map_err(|e| format!("chat template: the variable '{}': {e}", &*name))?;
        }
        let interpreter = Interpreter::new(now);
        let mut out = Buffer::default();
        interpreter.run(&self.block, &scope, &mut out).map_err(|e| format!("chat template: line {}: {e}", interpreter.line()))?;
        Ok(out.finish())
    }
}
