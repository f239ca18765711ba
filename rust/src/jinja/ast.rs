//! What a template is once it is parsed. Chains of one precedence are one node, so that only brackets and statements nest.

use std::sync::Arc;

use super::value::Text;

pub type Block = Vec<Stmt>;

pub struct Stmt {
    pub line: u32,
    pub kind: StmtKind,
}

pub enum StmtKind {
    Data(Text),
    Print(Expr),
    If(Vec<(Expr, Block)>, Block),
    For(Arc<For>),
    Set(Target, Expr),
    SetBlock(Target, Vec<Link>, Block),
    Macro(Arc<MacroDef>),
    Call(Expr, Arc<MacroDef>),
    Filter(Vec<Link>, Block),
    With(Vec<(Target, Expr)>, Block),
    Do(Expr),
    Break,
    Continue,
    /// `block`, and `generation` of Transformers, which marks its text for training alone: a scope of their own.
    Scope(Block),
}

pub struct For {
    pub target: Target,
    pub iter: Expr,
    pub test: Option<Expr>,
    pub recursive: bool,
    pub body: Block,
    pub otherwise: Block,
}

pub struct MacroDef {
    pub name: Text,
    pub parameters: Vec<(Text, Option<Expr>)>,
    pub body: Block,
    pub uses_caller: bool,
    pub uses_varargs: bool,
    pub uses_kwargs: bool,
}

pub enum Target {
    Name(Text),
    Attribute(Text, Text),
    Tuple(Vec<Target>),
}

pub struct Expr {
    pub line: u32,
    pub kind: ExprKind,
}

pub enum ExprKind {
    Name(Text),
    Str(Text),
    Int(i128),
    Float(f64),
    Bool(bool),
    None,
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    Or(Vec<Expr>),
    And(Vec<Expr>),
    Not(usize, Box<Expr>),
    /// Signs before a value, the outer one first.
    Signs(Vec<bool>, Box<Expr>),
    Compare(Box<Expr>, Vec<(Compare, Expr)>),
    /// `+ - * / // % **` of one precedence, from left to right.
    Math(Box<Expr>, Vec<(&'static str, Expr)>),
    Concat(Vec<Expr>),
    /// `a if b else c if d else e`
    If(Vec<(Expr, Expr)>, Option<Box<Expr>>),
    Chain(Box<Expr>, Vec<Link>),
}

#[derive(Clone, Copy, PartialEq)]
pub enum Compare {
    Sign(&'static str),
    In,
    NotIn,
}

pub struct Link {
    pub line: u32,
    pub kind: LinkKind,
}

pub enum LinkKind {
    Attribute(Text),
    Item(Expr),
    Slice(Box<[Option<Expr>; 3]>),
    Call(Arguments),
    Filter(Text, Arguments),
    Test(Text, bool, Arguments),
}

#[derive(Default)]
pub struct Arguments {
    pub positional: Vec<(bool, Expr)>,  // (`*` before it, value)
    pub named: Vec<(Option<Text>, Expr)>,  // no name: `**` before it
}
