//! Jinja2's lexer as Transformers sets it: trim_blocks and lstrip_blocks on.

use super::value::Text;

#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    Data(Text),
    Begin(bool),  // of a statement, else of an expression to print
    End,
    Name(Text),
    Str(Text),
    Int(i128),
    Float(f64),
    Sign(&'static str),
    Eof,
}

const SIGNS: [&str; 29] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".", ":", "|", ",", ";", "!", "&", "@",
];

/// A line and what is wrong there.
pub type Wrong = (u32, String);

struct Lexer<'a> {
    s: &'a str,
    at: usize,
    line: u32,
    out: Vec<(Token, u32)>,
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.s[self.at..]
    }

    fn wrong<T>(&self, message: impl Into<String>) -> Result<T, Wrong> {
        Err((self.line, message.into()))
    }

    fn push(&mut self, token: Token) {
        self.out.push((token, self.line));
    }

    fn skip(&mut self, bytes: usize) {
        let skipped = &self.s[self.at..self.at + bytes];
        self.line += skipped.bytes().filter(|&b| b == b'\n').count() as u32;
        self.at += bytes;
    }

    fn skip_space(&mut self) {
        self.skip(self.rest().len() - self.rest().trim_start().len());
    }

    /// Consumes a tag's end with what it takes along; whether a line starts behind it. `trims`: it takes a line's end along.
    fn end(&mut self, close: &str, trims: bool) -> Option<bool> {
        let rest = self.rest();
        if rest.strip_prefix('-').is_some_and(|r| r.starts_with(close)) {
            let begin = self.at;
            self.skip(1 + close.len());
            self.skip_space();
            return Some(self.s[begin..self.at].ends_with('\n'));
        }
        if trims && rest.strip_prefix('+').is_some_and(|r| r.starts_with(close)) {
            self.skip(1 + close.len());
            return Some(false);
        }
        let after = rest.strip_prefix(close)?;
        let newline = trims && after.starts_with('\n');
        self.skip(close.len() + newline as usize);
        Some(newline)
    }

    /// The length of `{% word %}` here with its signs, up to its closing "%}" or a sign before that.
    fn word_tag(&self, word: &str) -> Option<usize> {
        let rest = self.rest().strip_prefix("{%")?;
        let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest).trim_start().strip_prefix(word)?;
        let rest = rest.trim_start();
        let closes = rest.starts_with("%}") || rest.starts_with("-%}") || (word == "endraw" && rest.starts_with("+%}"));
        closes.then_some(self.s.len() - self.at - rest.len())
    }

    /// A text before a tag, stripped as the tag's sign has it.
    fn data(&mut self, text: &str, sign: u8, lstrip: bool, line_starts: bool) {
        let mut kept = text;
        if sign == b'-' {
            kept = text.trim_end();
        } else if sign != b'+' && lstrip {
            let line = text.rfind('\n').map_or(0, |at| at + 1);
            if (line > 0 || line_starts) && text[line..].trim().is_empty() {
                kept = &text[..line];
            }
        }
        if !kept.is_empty() {
            self.push(Token::Data(Text::constant(kept)));
        }
    }

    fn run(&mut self) -> Result<(), Wrong> {
        let mut line_starts = true;
        loop {
            let rest = self.rest();
            let Some(begin) = (0..rest.len().saturating_sub(1)).find(|&i| rest.as_bytes()[i] == b'{' && matches!(rest.as_bytes()[i + 1], b'{' | b'%' | b'#')) else {
                if !rest.is_empty() {
                    self.push(Token::Data(Text::constant(rest)));
                }
                break;
            };
            let text = &rest[..begin];
            let kind = rest.as_bytes()[begin + 1];
            let sign = rest.as_bytes().get(begin + 2).copied().filter(|c| matches!(c, b'-' | b'+')).unwrap_or(0);
            self.data(text, sign, kind != b'{', line_starts);
            self.skip(begin);
            if let Some(length) = self.word_tag("raw").filter(|_| kind == b'%') {
                self.skip(length);
                if self.rest().starts_with('-') {
                    self.skip(3);
                    self.skip_space();
                } else {
                    self.skip(2);
                }
                line_starts = self.raw()?;
                continue;
            }
            self.skip(2 + (sign != 0) as usize);
            line_starts = match kind {
                b'#' => {
                    let Some(end) = self.rest().find("#}") else { return self.wrong("Missing end of comment tag") };
                    let signed = end > 0 && matches!(self.rest().as_bytes()[end - 1], b'-' | b'+');
                    self.skip(end - signed as usize);
                    self.end("#}", true).unwrap_or(false)
                }
                _ => self.tag(kind == b'%')?,
            };
        }
        self.push(Token::Eof);
        Ok(())
    }

    fn raw(&mut self) -> Result<bool, Wrong> {
        let begin = self.at;
        let mut from = self.at;
        while let Some(found) = self.s[from..].find("{%") {
            self.at = from + found;
            if let Some(length) = self.word_tag("endraw") {
                let text = &self.s[begin..self.at];
                let sign = self.s.as_bytes()[self.at + 2];
                self.data(text, sign, true, begin > 0 && self.s.as_bytes()[begin - 1] == b'\n');
                self.line += text.bytes().filter(|&b| b == b'\n').count() as u32;
                self.skip(length);
                return Ok(self.end("%}", true).unwrap_or(false));
            }
            from = self.at + 2;
        }
        self.at = begin;
        self.wrong("Missing end of raw directive")
    }

    fn tag(&mut self, statement: bool) -> Result<bool, Wrong> {
        self.push(Token::Begin(statement));
        let mut open = Vec::new();
        loop {
            self.skip_space();
            if open.is_empty() {
                if let Some(line_starts) = self.end(if statement { "%}" } else { "}}" }, statement) {
                    self.push(Token::End);
                    return Ok(line_starts);
                }
            }
            let rest = self.rest();
            let Some(c) = rest.chars().next() else {
                return self.wrong("unexpected end of template, a tag is not closed");
            };
            if c.is_ascii_digit() {
                self.number()?;
            } else if is_word(c) {
                let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                self.push(Token::Name(Text::constant(&rest[..length])));
                self.skip(length);
            } else if c == '\'' || c == '"' {
                let mut escaped = false;
                let close = rest[1..].find(|d| {
                    let closes = d == c && !escaped;
                    escaped = d == '\\' && !escaped;
                    closes
                });
                let Some(length) = close else { return self.wrong("unexpected end of template, a text is not closed") };
                let text = unescaped(&rest[1..1 + length]).or_else(|e| self.wrong(e))?;
                self.push(Token::Str(Text::constant(&text)));
                self.skip(length + 2);
            } else {
                let Some(sign) = SIGNS.iter().find(|s| rest.starts_with(**s)) else { return self.wrong(format!("unexpected char '{c}'")) };
                match *sign {
                    "(" => open.push(")"),
                    "[" => open.push("]"),
                    "{" => open.push("}"),
                    ")" | "]" | "}" => match open.pop() {
                        Some(want) if want == *sign => {}
                        Some(want) => return self.wrong(format!("unexpected '{sign}', expected '{want}'")),
                        None => return self.wrong(format!("unexpected '{sign}'")),
                    },
                    "!" | "&" | "@" => return self.wrong(format!("unexpected char '{c}'")),
                    _ => {}
                }
                self.push(Token::Sign(sign));
                self.skip(sign.len());
            }
        }
    }

    fn number(&mut self) -> Result<(), Wrong> {
        let rest = self.rest();
        let digits = |s: &str| {
            let n = s.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(s.len());
            s[..n].trim_end_matches('_').len()
        };
        let radix = match rest.as_bytes().get(1) {
            Some(b'x' | b'X') => 16,
            Some(b'o' | b'O') => 8,
            Some(b'b' | b'B') => 2,
            _ => 10,
        };
        if radix != 10 && rest.starts_with('0') {
            let n = 2 + rest[2..].find(|c: char| !c.is_digit(radix) && c != '_').unwrap_or(rest.len() - 2);
            let Ok(i) = i128::from_str_radix(&rest[2..n].replace('_', ""), radix) else { return self.wrong(format!("'{}' is no number", &rest[..n])) };
            self.push(Token::Int(i));
            self.skip(n);
            return Ok(());
        }
        let whole = digits(rest);
        let mut n = whole;
        let after_dot = self.s[..self.at].ends_with('.');
        if !after_dot {
            let fraction = rest[n..].strip_prefix('.').map_or(0, digits);
            if fraction > 0 {
                n += 1 + fraction;
            }
            if let Some(e) = rest[n..].strip_prefix(['e', 'E']) {
                let signs = e.starts_with(['+', '-']) as usize;
                let exponent = digits(&e[signs..]);
                if exponent > 0 {
                    n += 1 + signs + exponent;
                }
            }
        }
        let text = rest[..n].replace('_', "");
        let token = if n > whole { text.parse().ok().map(Token::Float) } else { text.parse().ok().map(Token::Int) };
        let Some(token) = token else { return self.wrong("a number is too large") };
        self.push(token);
        self.skip(n);
        Ok(())
    }
}

/// Python's escapes in a text.
fn unescaped(s: &str) -> Result<String, String> {
    let mut out = String::with_capacity(s.len());
    let mut chars = s.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        let Some(c) = chars.next() else { break };
        let digits = match c {
            'n' => Err('\n'),
            't' => Err('\t'),
            'r' => Err('\r'),
            'a' => Err('\u{7}'),
            'b' => Err('\u{8}'),
            'f' => Err('\u{c}'),
            'v' => Err('\u{b}'),
            '\\' | '\'' | '"' => Err(c),
            '\n' => continue,
            'x' => Ok(2),
            'u' => Ok(4),
            'U' => Ok(8),
            '0'..='7' => {
                let mut n = c.to_digit(8).unwrap_or(0);
                for _ in 0..2 {
                    let Some(d) = chars.clone().next().and_then(|c| c.to_digit(8)) else { break };
                    n = n * 8 + d;
                    chars.next();
                }
                Err(char::from_u32(n).unwrap_or('\u{fffd}'))
            }
            c => {
                out.push('\\');
                Err(c)
            }
        };
        match digits {
            Err(c) => out.push(c),
            Ok(n) => {
                let code = |chars: &mut std::str::Chars| -> Option<u32> { (0..n).try_fold(0, |sum, _| Some(sum * 16 + chars.next()?.to_digit(16)?)) };
                let mut value = code(&mut chars).ok_or_else(|| format!("a text has a broken \\{c} escape"))?;
                if (0xd800..0xdc00).contains(&value) && chars.as_str().starts_with("\\u") {
                    let mut ahead = chars.clone();
                    ahead.nth(1);
                    if let Some(low) = code(&mut ahead).filter(|low| (0xdc00..0xe000).contains(low)) {
                        value = 0x10000 + ((value - 0xd800) << 10) + (low - 0xdc00);
                        chars = ahead;
                    }
                }
                out.push(char::from_u32(value).ok_or_else(|| format!("a text has the escape of no character: \\{c}{value:x}"))?);
            }
        }
    }
    Ok(out)
}

/// The tokens of a template with their lines.
pub fn lex(source: &str) -> Result<Vec<(Token, u32)>, Wrong> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let source = source.strip_suffix('\n').unwrap_or(&source);
    let mut lexer = Lexer { s: source, at: 0, line: 1, out: Vec::new() };
    lexer.run()?;
    Ok(lexer.out)
}
