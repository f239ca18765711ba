//! Values that Python prints in a form of their own: tuples and the views of a dict.

use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectRepr, Value};

#[derive(Debug)]
pub struct Tuple(Vec<Value>);

impl Tuple {
    pub fn value(items: Vec<Value>) -> Value {
        Value::from_object(Tuple(items))
    }

    pub fn items(&self) -> &[Value] {
        &self.0
    }
}

impl Object for Tuple {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.0.len())
    }
}

/// What dict.items(), keys() and values() give: `name` is how Python prints it.
#[derive(Debug)]
pub struct View {
    pub name: &'static str,
    items: Vec<Value>,
}

impl View {
    pub fn value(name: &'static str, items: Vec<Value>) -> Value {
        Value::from_object(View { name, items })
    }
}

impl Object for View {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.items.clone())
    }
}
