//! Jinja2's grammar. Brackets and statements nest at most MAX_NESTED levels: whoever walks the tree may recurse.

use std::sync::Arc;

use super::ast::{Arguments, Block, Compare, Expr, ExprKind, For, Link, LinkKind, MacroDef, Stmt, StmtKind, Target};
use super::lexer::{lex, Token, Wrong};
use super::value::Text;

const MAX_NESTED: usize = 100;

type Parsed<T> = Result<T, Wrong>;

struct Parser {
    tokens: Vec<(Token, u32)>,
    at: usize,
    depth: usize,
    loops: usize,
    /// Of the macros around: whether `caller`, `varargs` and `kwargs` are named.
    uses: Vec<[bool; 3]>,
}

pub fn parse(source: &str) -> Parsed<Block> {
    let mut p = Parser { tokens: lex(source)?, at: 0, depth: 0, loops: 0, uses: Vec::new() };
    let block = p.block(&[])?;
    match p.token() {
        Token::Eof => Ok(block),
        _ => p.wrong(format!("Encountered unknown tag '{}'.", p.shown())),
    }
}

impl Parser {
    fn token(&self) -> &Token {
        &self.tokens[self.at.min(self.tokens.len() - 1)].0
    }

    fn ahead(&self) -> &Token {
        &self.tokens[(self.at + 1).min(self.tokens.len() - 1)].0
    }

    fn line(&self) -> u32 {
        self.tokens[self.at.min(self.tokens.len() - 1)].1
    }

    fn next(&mut self) -> Token {
        let token = self.token().clone();
        self.at += 1;
        token
    }

    fn wrong<T>(&self, message: impl Into<String>) -> Parsed<T> {
        Err((self.line(), message.into()))
    }

    fn shown(&self) -> String {
        match self.token() {
            Token::Data(_) | Token::Eof => "end of template".to_string(),
            Token::Begin(_) => "begin of a tag".to_string(),
            Token::End => "end of the tag".to_string(),
            Token::Name(s) => s.to_string(),
            Token::Str(s) => format!("'{}'", &**s),
            Token::Int(i) => i.to_string(),
            Token::Float(f) => f.to_string(),
            Token::Sign(s) => s.to_string(),
        }
    }

    fn unexpected<T>(&self, wanted: &str) -> Parsed<T> {
        self.wrong(format!("unexpected '{}', expected {wanted}", self.shown()))
    }

    fn is_sign(&self, sign: &str) -> bool {
        matches!(self.token(), Token::Sign(s) if *s == sign)
    }

    fn is_name(&self, name: &str) -> bool {
        matches!(self.token(), Token::Name(s) if **s == *name)
    }

    fn skip_sign(&mut self, sign: &str) -> bool {
        let found = self.is_sign(sign);
        self.at += found as usize;
        found
    }

    fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        self.at += found as usize;
        found
    }

    fn expect_sign(&mut self, sign: &str) -> Parsed<()> {
        if self.skip_sign(sign) { Ok(()) } else { self.unexpected(&format!("'{sign}'")) }
    }

    fn expect_name(&mut self) -> Parsed<Text> {
        match self.token() {
            Token::Name(s) => {
                let name = s.clone();
                self.at += 1;
                Ok(name)
            }
            _ => self.unexpected("a name"),
        }
    }

    fn expect_end(&mut self) -> Parsed<()> {
        if *self.token() == Token::End {
            self.at += 1;
            return Ok(());
        }
        self.unexpected("the end of the tag")
    }

    fn nested<T>(&mut self, f: impl FnOnce(&mut Parser) -> Parsed<T>) -> Parsed<T> {
        if self.depth >= MAX_NESTED {
            return self.wrong(format!("brackets and statements in each other; at most {MAX_NESTED} levels"));
        }
        self.depth += 1;
        let result = f(self);
        self.depth -= 1;
        result
    }

    /// Statements up to one of these tags; what follows its name is left.
    fn block(&mut self, ends: &[&str]) -> Parsed<Block> {
        let mut out = Vec::new();
        loop {
            let line = self.line();
            match self.token().clone() {
                Token::Eof if ends.is_empty() => return Ok(out),
                Token::Eof => return self.wrong(format!("Unexpected end of template. The innermost block that needs to be closed wants {}.", ends.join(" or "))),
                Token::Data(s) => {
                    self.at += 1;
                    out.push(Stmt { line, kind: StmtKind::Data(s) });
                }
                Token::Begin(false) => {
                    self.at += 1;
                    let value = self.tuple(true, true, "")?;
                    self.expect_end()?;
                    out.push(Stmt { line, kind: StmtKind::Print(value) });
                }
                _ => {
                    self.at += 1;
                    if ends.iter().any(|end| self.is_name(end)) || (ends.is_empty() && matches!(self.token(), Token::Name(s) if s.starts_with("end") || matches!(&**s, "else" | "elif"))) {
                        return Ok(out);
                    }
                    let kind = self.nested(|p| p.statement())?;
                    out.push(Stmt { line, kind });
                }
            }
        }
    }

    /// A block, its closing tag included.
    fn body(&mut self, end: &str) -> Parsed<Block> {
        let block = self.block(&[end])?;
        self.at += 1;
        self.expect_end()?;
        Ok(block)
    }

    fn statement(&mut self) -> Parsed<StmtKind> {
        let tag = self.expect_name()?;
        match &*tag {
            "if" => self.if_statement(),
            "for" => self.for_statement(),
            "set" => {
                let target = self.target("=", true)?;
                if self.skip_sign("=") {
                    let value = self.tuple(true, true, "")?;
                    self.expect_end()?;
                    return Ok(StmtKind::Set(target, value));
                }
                let filters = if self.is_sign("|") { self.filters()? } else { Vec::new() };
                self.expect_end()?;
                Ok(StmtKind::SetBlock(target, filters, self.body("endset")?))
            }
            "macro" => {
                let name = self.expect_name()?;
                if !self.is_sign("(") {
                    return self.unexpected("'('");
                }
                Ok(StmtKind::Macro(Arc::new(self.macro_of(name, None, "endmacro")?.1)))
            }
            "call" => {
                let (call, def) = self.macro_of(Text::constant(""), Some(()), "endcall")?;
                match call {
                    Some(call) => Ok(StmtKind::Call(call, Arc::new(def))),
                    None => self.wrong("expected call"),
                }
            }
            "filter" => {
                self.at -= 1;
                // As if a "|" stood before the first one.
                let filters = self.filters()?;
                self.expect_end()?;
                Ok(StmtKind::Filter(filters, self.body("endfilter")?))
            }
            "with" => {
                let mut values = Vec::new();
                while *self.token() != Token::End {
                    if !values.is_empty() {
                        self.expect_sign(",")?;
                    }
                    let target = self.target("=", false)?;
                    self.expect_sign("=")?;
                    values.push((target, self.expression()?));
                }
                self.expect_end()?;
                Ok(StmtKind::With(values, self.body("endwith")?))
            }
            "do" => {
                let value = self.tuple(true, true, "")?;
                self.expect_end()?;
                Ok(StmtKind::Do(value))
            }
            "print" => {
                let value = self.tuple(true, true, "")?;
                self.expect_end()?;
                Ok(StmtKind::Print(value))
            }
            "break" | "continue" => {
                if self.loops == 0 {
                    return self.wrong(format!("'{}' outside loop", &*tag));
                }
                self.expect_end()?;
                Ok(if &*tag == "break" { StmtKind::Break } else { StmtKind::Continue })
            }
            "block" => {
                let name = self.expect_name()?;
                while self.skip_name("scoped") || self.skip_name("required") {}
                self.expect_end()?;
                let block = self.block(&["endblock"])?;
                self.at += 1;
                self.skip_name(&name);
                self.expect_end()?;
                Ok(StmtKind::Scope(block))
            }
            "generation" => {
                self.expect_end()?;
                let loops = std::mem::take(&mut self.loops);
                let block = self.body("endgeneration");
                self.loops = loops;
                Ok(StmtKind::Scope(block?))
            }
            "include" | "import" | "from" | "extends" | "autoescape" => self.wrong(format!("the tag '{}' has no meaning in a chat template", &*tag)),
            _ => self.wrong(format!("Encountered unknown tag '{}'.", &*tag)),
        }
    }

    fn if_statement(&mut self) -> Parsed<StmtKind> {
        let mut branches = Vec::new();
        loop {
            let test = self.tuple(false, true, "")?;
            self.expect_end()?;
            let block = self.block(&["elif", "else", "endif"])?;
            branches.push((test, block));
            if self.skip_name("elif") {
                continue;
            }
            let otherwise = if self.skip_name("else") {
                self.expect_end()?;
                self.block(&["endif"])?
            } else {
                Vec::new()
            };
            self.at += 1;
            self.expect_end()?;
            return Ok(StmtKind::If(branches, otherwise));
        }
    }

    fn for_statement(&mut self) -> Parsed<StmtKind> {
        let target = self.target("in", false)?;
        if !self.skip_name("in") {
            return self.unexpected("'in'");
        }
        let iter = self.tuple(false, true, "recursive")?;
        let test = if self.skip_name("if") { Some(self.expression()?) } else { None };
        let recursive = self.skip_name("recursive");
        self.expect_end()?;
        self.loops += 1;
        let body = self.block(&["endfor", "else"])?;
        self.loops -= 1;
        let otherwise = if self.skip_name("else") {
            self.expect_end()?;
            self.block(&["endfor"])?
        } else {
            Vec::new()
        };
        self.at += 1;
        self.expect_end()?;
        Ok(StmtKind::For(Arc::new(For { target, iter, test, recursive, body, otherwise })))
    }

    /// The signature where there is one, of a `call` tag its call, the tag's end, and the body.
    fn macro_of(&mut self, name: Text, call: Option<()>, end: &str) -> Parsed<(Option<Expr>, MacroDef)> {
        let mut parameters: Vec<(Text, Option<Expr>)> = Vec::new();
        if self.skip_sign("(") {
            while !self.is_sign(")") {
                if !parameters.is_empty() {
                    self.expect_sign(",")?;
                }
                let parameter = self.expect_name()?;
                let value = if self.skip_sign("=") { Some(self.expression()?) } else { None };
                if value.is_none() && parameters.last().is_some_and(|p| p.1.is_some()) {
                    return self.wrong("non-default argument follows default argument");
                }
                parameters.push((parameter, value));
            }
            self.at += 1;
        }
        let call = match call {
            Some(()) => {
                let call = self.expression()?;
                match &call.kind {
                    ExprKind::Chain(_, links) if matches!(links.last(), Some(Link { kind: LinkKind::Call(_), .. })) => Some(call),
                    _ => return self.wrong("expected call"),
                }
            }
            None => None,
        };
        self.expect_end()?;
        self.uses.push([false; 3]);
        let loops = std::mem::take(&mut self.loops);
        let body = self.body(end);
        self.loops = loops;
        let [uses_caller, uses_varargs, uses_kwargs] = self.uses.pop().unwrap_or_default();
        // Jinja2 counts what a macro within names for the one around it, too.
        if let Some(outer) = self.uses.last_mut() {
            *outer = [outer[0] | uses_caller, outer[1] | uses_varargs, outer[2] | uses_kwargs];
        }
        Ok((call, MacroDef { name, parameters, body: body?, uses_caller, uses_varargs, uses_kwargs }))
    }

    /// What is set: names, a namespace's attribute, or several in a tuple, up to `end`.
    fn target(&mut self, end: &str, dotted: bool) -> Parsed<Target> {
        let mut items = Vec::new();
        let mut is_tuple = false;
        loop {
            if self.skip_sign("(") {
                items.push(self.nested(|p| p.target(")", dotted))?);
                self.expect_sign(")")?;
            } else {
                let name = self.expect_name()?;
                if matches!(&*name, "true" | "false" | "none" | "True" | "False" | "None") {
                    return self.wrong(format!("can't assign to '{}'", &*name));
                }
                items.push(if dotted && self.skip_sign(".") { Target::Attribute(name, self.expect_name()?) } else { Target::Name(name) });
            }
            if !self.skip_sign(",") {
                break;
            }
            is_tuple = true;
            if self.is_sign(end) || self.is_name(end) || *self.token() == Token::End {
                break;
            }
        }
        match items.pop() {
            Some(only) if !is_tuple && items.is_empty() => Ok(only),
            Some(last) => {
                items.push(last);
                Ok(Target::Tuple(items))
            }
            None => self.unexpected("a name"),
        }
    }

    /// One expression, or several with commas between as a tuple. `end`: a word that ends it.
    fn tuple(&mut self, with_if: bool, bare: bool, end: &str) -> Parsed<Expr> {
        let line = self.line();
        let mut items = Vec::new();
        let mut is_tuple = false;
        loop {
            if *self.token() == Token::End || self.is_sign(")") || (!end.is_empty() && self.is_name(end)) {
                break;
            }
            items.push(if with_if { self.expression()? } else { self.or()? });
            if !self.skip_sign(",") {
                break;
            }
            is_tuple = true;
        }
        if !is_tuple {
            if let Some(only) = items.pop() {
                return Ok(only);
            }
            if bare {
                return self.wrong(format!("Expected an expression, got '{}'", self.shown()));
            }
        }
        Ok(Expr { line, kind: ExprKind::Tuple(items) })
    }

    fn expression(&mut self) -> Parsed<Expr> {
        self.nested(|p| p.condition())
    }

    fn condition(&mut self) -> Parsed<Expr> {
        let line = self.line();
        let mut branches = Vec::new();
        let mut value = self.or()?;
        while self.skip_name("if") {
            let test = self.or()?;
            branches.push((value, test));
            if !self.skip_name("else") {
                if self.is_name("if") {
                    return self.unexpected("'else'");
                }
                return Ok(Expr { line, kind: ExprKind::If(branches, None) });
            }
            value = self.or()?;
        }
        if branches.is_empty() {
            return Ok(value);
        }
        Ok(Expr { line, kind: ExprKind::If(branches, Some(Box::new(value))) })
    }

    fn words(&mut self, word: &str, operand: fn(&mut Parser) -> Parsed<Expr>, node: fn(Vec<Expr>) -> ExprKind) -> Parsed<Expr> {
        let line = self.line();
        let first = operand(self)?;
        if !self.is_name(word) {
            return Ok(first);
        }
        let mut all = vec![first];
        while self.skip_name(word) {
            all.push(operand(self)?);
        }
        Ok(Expr { line, kind: node(all) })
    }

    fn or(&mut self) -> Parsed<Expr> {
        self.words("or", Parser::and, ExprKind::Or)
    }

    fn and(&mut self) -> Parsed<Expr> {
        self.words("and", Parser::not, ExprKind::And)
    }

    fn not(&mut self) -> Parsed<Expr> {
        let line = self.line();
        let mut n = 0;
        while self.skip_name("not") {
            n += 1;
        }
        let value = self.compare()?;
        Ok(if n == 0 { value } else { Expr { line, kind: ExprKind::Not(n, Box::new(value)) } })
    }

    fn compare(&mut self) -> Parsed<Expr> {
        let line = self.line();
        let first = self.sum()?;
        let mut rest = Vec::new();
        loop {
            let op = match self.token() {
                Token::Sign(s @ ("==" | "!=" | "<" | "<=" | ">" | ">=")) => Compare::Sign(s),
                Token::Name(s) if &**s == "in" => Compare::In,
                Token::Name(s) if &**s == "not" && matches!(self.ahead(), Token::Name(s) if &**s == "in") => {
                    self.at += 1;
                    Compare::NotIn
                }
                _ => break,
            };
            self.at += 1;
            rest.push((op, self.sum()?));
        }
        Ok(if rest.is_empty() { first } else { Expr { line, kind: ExprKind::Compare(Box::new(first), rest) } })
    }

    fn math(&mut self, signs: &[&'static str], operand: fn(&mut Parser) -> Parsed<Expr>) -> Parsed<Expr> {
        let line = self.line();
        let first = operand(self)?;
        let mut rest = Vec::new();
        while let Token::Sign(s) = self.token() {
            let Some(&sign) = signs.iter().find(|sign| *sign == s) else { break };
            self.at += 1;
            rest.push((sign, operand(self)?));
        }
        Ok(if rest.is_empty() { first } else { Expr { line, kind: ExprKind::Math(Box::new(first), rest) } })
    }

    fn sum(&mut self) -> Parsed<Expr> {
        self.math(&["+", "-"], Parser::concat)
    }

    fn concat(&mut self) -> Parsed<Expr> {
        let line = self.line();
        let first = self.product()?;
        if !self.is_sign("~") {
            return Ok(first);
        }
        let mut all = vec![first];
        while self.skip_sign("~") {
            all.push(self.product()?);
        }
        Ok(Expr { line, kind: ExprKind::Concat(all) })
    }

    fn product(&mut self) -> Parsed<Expr> {
        self.math(&["*", "/", "//", "%"], Parser::power)
    }

    fn power(&mut self) -> Parsed<Expr> {
        self.math(&["**"], Parser::unary)
    }

    fn unary(&mut self) -> Parsed<Expr> {
        let line = self.line();
        let mut signs = Vec::new();
        while let Token::Sign(s @ ("-" | "+")) = self.token() {
            signs.push(*s == "-");
            self.at += 1;
        }
        let value = self.primary()?;
        let mut links = Vec::new();
        self.postfix(&mut links)?;
        let mut value = chain(value, links);
        if !signs.is_empty() {
            value = Expr { line, kind: ExprKind::Signs(signs, Box::new(value)) };
        }
        let mut links = Vec::new();
        self.filter_links(&mut links)?;
        Ok(chain(value, links))
    }

    fn primary(&mut self) -> Parsed<Expr> {
        let line = self.line();
        let kind = match self.next() {
            Token::Name(name) => match &*name {
                "true" | "True" => ExprKind::Bool(true),
                "false" | "False" => ExprKind::Bool(false),
                "none" | "None" => ExprKind::None,
                word => {
                    if let (Some(at), Some(uses)) = (["caller", "varargs", "kwargs"].iter().position(|w| *w == word), self.uses.last_mut()) {
                        uses[at] = true;
                    }
                    ExprKind::Name(name)
                }
            },
            Token::Str(s) => {
                // Texts side by side are one.
                if !matches!(self.token(), Token::Str(_)) {
                    return Ok(Expr { line, kind: ExprKind::Str(s) });
                }
                let mut text = s.to_string();
                while let Token::Str(more) = self.token() {
                    text.push_str(more);
                    self.at += 1;
                }
                ExprKind::Str(Text::constant(&text))
            }
            Token::Int(i) => ExprKind::Int(i),
            Token::Float(f) => ExprKind::Float(f),
            Token::Sign("(") => {
                let value = self.nested(|p| p.tuple(true, false, ""))?;
                self.expect_sign(")")?;
                return Ok(value);
            }
            Token::Sign("[") => {
                let mut items = Vec::new();
                while !self.is_sign("]") {
                    if !items.is_empty() {
                        self.expect_sign(",")?;
                    }
                    if !self.is_sign("]") {
                        items.push(self.expression()?);
                    }
                }
                self.at += 1;
                ExprKind::List(items)
            }
            Token::Sign("{") => {
                let mut items = Vec::new();
                while !self.is_sign("}") {
                    if !items.is_empty() {
                        self.expect_sign(",")?;
                    }
                    if self.is_sign("}") {
                        break;
                    }
                    let key = self.expression()?;
                    self.expect_sign(":")?;
                    items.push((key, self.expression()?));
                }
                self.at += 1;
                ExprKind::Dict(items)
            }
            _ => {
                self.at -= 1;
                return self.wrong(format!("unexpected '{}'", self.shown()));
            }
        };
        Ok(Expr { line, kind })
    }

    /// `.name`, `[...]` and `(...)` behind a value.
    fn postfix(&mut self, links: &mut Vec<Link>) -> Parsed<()> {
        loop {
            let line = self.line();
            let kind = if self.skip_sign(".") {
                match self.next() {
                    Token::Name(name) => LinkKind::Attribute(name),
                    Token::Int(i) => LinkKind::Item(Expr { line, kind: ExprKind::Int(i) }),
                    _ => return self.wrong("expected name or number"),
                }
            } else if self.skip_sign("[") {
                self.nested(|p| p.subscript())?
            } else if self.is_sign("(") {
                LinkKind::Call(self.arguments()?)
            } else {
                return Ok(());
            };
            links.push(Link { line, kind });
        }
    }

    fn subscript(&mut self) -> Parsed<LinkKind> {
        let mut parts = [None, None, None];
        let mut colons = 0;
        loop {
            if self.skip_sign("]") {
                break;
            }
            if self.is_sign(":") {
                if colons == 2 {
                    return self.unexpected("']'");
                }
                colons += 1;
                self.at += 1;
                continue;
            }
            if parts[colons].is_some() {
                return self.unexpected("']'");
            }
            parts[colons] = Some(self.expression()?);
        }
        match (colons, parts) {
            (0, [Some(item), ..]) => Ok(LinkKind::Item(item)),
            (0, _) => self.wrong("expected subscript expression"),
            (_, parts) => Ok(LinkKind::Slice(Box::new(parts))),
        }
    }

    fn filter_links(&mut self, links: &mut Vec<Link>) -> Parsed<()> {
        loop {
            let line = self.line();
            if self.is_sign("|") {
                links.extend(self.filters()?);
            } else if self.skip_name("is") {
                let kind = self.test()?;
                links.push(Link { line, kind });
            } else if self.is_sign("(") {
                let kind = LinkKind::Call(self.arguments()?);
                links.push(Link { line, kind });
            } else {
                return Ok(());
            }
        }
    }

    fn dotted_name(&mut self) -> Parsed<Text> {
        let name = self.expect_name()?;
        if !self.is_sign(".") {
            return Ok(name);
        }
        let mut all = name.to_string();
        while self.skip_sign(".") {
            all.push('.');
            all.push_str(&self.expect_name()?);
        }
        Ok(Text::constant(&all))
    }

    /// `|name(...)|name`; the token here is passed as the first "|".
    fn filters(&mut self) -> Parsed<Vec<Link>> {
        let mut links = Vec::new();
        loop {
            self.at += 1;
            let line = self.line();
            let name = self.dotted_name()?;
            let arguments = if self.is_sign("(") { self.arguments()? } else { Arguments::default() };
            links.push(Link { line, kind: LinkKind::Filter(name, arguments) });
            if !self.is_sign("|") {
                return Ok(links);
            }
        }
    }

    fn test(&mut self) -> Parsed<LinkKind> {
        let negated = self.skip_name("not");
        let name = self.dotted_name()?;
        let mut arguments = Arguments::default();
        let has_operand = match self.token() {
            Token::Name(s) => !matches!(&**s, "else" | "or" | "and"),
            Token::Str(_) | Token::Int(_) | Token::Float(_) => true,
            Token::Sign(s) => matches!(*s, "[" | "{"),
            _ => false,
        };
        if self.is_sign("(") {
            arguments = self.arguments()?;
        } else if has_operand {
            if self.is_name("is") {
                return self.wrong("You cannot chain multiple tests with is");
            }
            let value = self.primary()?;
            let mut links = Vec::new();
            self.postfix(&mut links)?;
            arguments.positional.push((false, chain(value, links)));
        }
        Ok(LinkKind::Test(name, negated, arguments))
    }

    fn arguments(&mut self) -> Parsed<Arguments> {
        self.expect_sign("(")?;
        let mut out = Arguments::default();
        let mut first = true;
        while !self.is_sign(")") {
            if !first {
                self.expect_sign(",")?;
                if self.is_sign(")") {
                    break;
                }
            }
            first = false;
            if self.skip_sign("**") {
                out.named.push((None, self.expression()?));
            } else if self.skip_sign("*") {
                out.positional.push((true, self.expression()?));
            } else if matches!((self.token(), self.ahead()), (Token::Name(_), Token::Sign("="))) {
                let name = self.expect_name()?;
                self.at += 1;
                out.named.push((Some(name), self.expression()?));
            } else if out.named.is_empty() {
                out.positional.push((false, self.expression()?));
            } else {
                return self.wrong("invalid syntax for function call expression");
            }
        }
        self.at += 1;
        Ok(out)
    }
}

fn chain(value: Expr, links: Vec<Link>) -> Expr {
    if links.is_empty() {
        return value;
    }
    Expr { line: value.line, kind: ExprKind::Chain(Box::new(value), links) }
}
