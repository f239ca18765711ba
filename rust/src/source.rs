//! A chat template's source as minijinja reads it: what only Jinja2 knows is written otherwise.

/// What is written in place of Python's own syntax: the method of `[a:b:c]`, the functions of `(a, b)` and `a ~ b`, the filter of `'...' % value`.
pub const SLICE: &str = "__slice";
pub const CONCAT: &str = "__concat";
pub const TUPLE: &str = "__tuple";
pub const PERCENT: &str = "__percent";

const MAX_TOKENS: usize = 4096;
const MAX_ELIFS: usize = 1000;

/// Jinja2 reads every line ending as "\n". The `generation` block of Transformers only marks text, so it becomes a block that is
/// always taken and, like it, opens no scope. `'...' % value` becomes a filter; a tuple, which minijinja would take for a list, a call, as
/// does `~`, whose operands minijinja writes its own way; a slice with a step, at whose borders minijinja errs, a method; a sign `+` before
/// a value goes, and `-x.y`, which minijinja takes for `(-x).y`, gets its brackets.
/// Tags that no template has are refused: minijinja follows their chains by recursion, which would end the process.
pub fn prepare(source: &str) -> Result<String, String> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut rest = source.as_str();
    let mut raw = false;
    let mut elifs = 0;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let kind = if raw && !ends_raw(rest) { b' ' } else { *rest.as_bytes().get(1).unwrap_or(&b' ') };
        let end = match kind {
            b'#' => rest[2..].find("#}").map(|e| e + 4),
            b'%' => end_of(rest, "%}"),
            b'{' => end_of(rest, "}}"),
            _ => Some(1),
        };
        let Some(end) = end else { break };
        let (tag, after) = rest.split_at(end);
        if matches!(kind, b'%' | b'{') {
            let signs = tokens(tag);
            if signs.len() > MAX_TOKENS {
                return Err(format!("a tag of {} names and signs; at most {MAX_TOKENS}", signs.len()));
            }
            elifs += signs.iter().any(|t| &tag[t.1..t.2] == "elif") as usize;
            if elifs > MAX_ELIFS {
                return Err(format!("more than {MAX_ELIFS} elif"));
            }
            out.push_str(&tag_text(tag, &mut raw));
        } else {
            out.push_str(tag);
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn ends_raw(s: &str) -> bool {
    s.strip_prefix("{%").is_some_and(|s| s.trim_start_matches(['-', '+']).trim_start().starts_with("endraw"))
}

fn tag_text(tag: &str, raw: &mut bool) -> String {
    let open_bytes = if matches!(tag.as_bytes().get(2), Some(b'-' | b'+')) && tag.len() > 5 { 3 } else { 2 };
    let close_bytes = if matches!(tag.as_bytes()[tag.len() - 3], b'-' | b'+') && tag.len() > open_bytes + 3 { 3 } else { 2 };
    let (open, close) = (&tag[..open_bytes], &tag[tag.len() - close_bytes..]);
    let inner = &tag[open_bytes..tag.len() - close_bytes];
    if open.starts_with("{%") {
        match inner.trim() {
            "raw" => *raw = true,
            "endraw" => *raw = false,
            "generation" if !*raw => return format!("{open} if true {close}"),
            "endgeneration" if !*raw => return format!("{open} endif {close}"),
            _ => {}
        }
    }
    if *raw {
        return tag.to_string();
    }
    format!("{open}{}{close}", tuples_as_calls(&concat_as_call(&percent_as_filter(&slice_as_method(inner))), open.starts_with("{%")))
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Text,
    Word,
    Sign,
}

/// Texts, words (names and numbers) and single signs: (kind, begin, end).
fn tokens(s: &str) -> Vec<(Kind, usize, usize)> {
    let bytes = s.as_bytes();
    let mut out = Vec::new();
    let mut i = 0;
    while i < bytes.len() {
        let begin = i;
        let c = bytes[i];
        i += 1;
        if c == b'\'' || c == b'"' {
            while i < bytes.len() && bytes[i] != c {
                i += if bytes[i] == b'\\' { 2 } else { 1 };
            }
            i = (i + 1).min(bytes.len());
            out.push((Kind::Text, begin, i));
        } else if c == b'_' || c.is_ascii_alphanumeric() || c >= 0x80 {
            while i < bytes.len() && (bytes[i] == b'_' || bytes[i].is_ascii_alphanumeric() || bytes[i] >= 0x80) {
                i += 1;
            }
            out.push((Kind::Word, begin, i));
        } else if !c.is_ascii_whitespace() {
            out.push((Kind::Sign, begin, i));
        }
    }
    out
}

/// Behind the sign pair that closes a tag: outside of texts and brackets, as Jinja2's lexer takes it.
fn end_of(s: &str, close: &str) -> Option<usize> {
    let mut depth = 0;
    let body = &s[2..];
    for (kind, begin, _) in tokens(body) {
        if kind != Kind::Sign {
            continue;
        }
        if depth == 0 && body[begin..].starts_with(close) {
            return Some(2 + begin + close.len());
        }
        match body.as_bytes()[begin] {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// `x[a:b:c]` as `x.SLICE(a, b, c)`.
fn slice_as_method(s: &str) -> String {
    let t = Tag::new(s);
    let mut out = String::with_capacity(s.len());
    let mut copied = 0;
    let mut closers = vec![false; t.all.len()];
    let mut colons = vec![false; t.all.len()];
    for i in 0..t.all.len() {
        let (_, begin, end) = t.all[i];
        if closers[i] {
            let before = t.sign(i - 1);
            out += &s[copied..begin];
            out += if before == b':' { "none)" } else { ")" };
            copied = end;
        } else if colons[i] {
            out += &s[copied..begin];
            out += if matches!(t.sign(i - 1), b':' | b'[') { "none, " } else { ", " };
            copied = end;
        } else if t.sign(i) == b'[' && i > 0 && is_value(s, t.all[i - 1]) {
            let Some(close) = t.closing[i] else { continue };
            let own: Vec<usize> = t.own(i + 1, close, b':').collect();
            if own.len() == 2 {
                own.iter().for_each(|&c| colons[c] = true);
                closers[close] = true;
                out += &s[copied..begin];
                out += &format!(".{SLICE}(");
                copied = end;
            }
        }
    }
    out + &s[copied..]
}

/// Whether the token before a bracket or a sign is a value, so that the bracket calls it and the sign is an operator.
fn is_value(s: &str, token: (Kind, usize, usize)) -> bool {
    let text = &s[token.1..token.2];
    match token.0 {
        Kind::Text => true,
        Kind::Word => !is_operator(text),
        Kind::Sign => matches!(text, ")" | "]" | "}"),
    }
}

/// Words that stand between values.
fn is_operator(word: &str) -> bool {
    matches!(word, "in" | "not" | "and" | "or" | "if" | "elif" | "else" | "is" | "for" | "set" | "do" | "print")
}

/// `a ~ b ~ c` as `CONCAT(a, b, c)`.
fn concat_as_call(s: &str) -> String {
    let t = Tag::new(s);
    let mut opens = vec![0; t.all.len() + 1];   // calls that begin before a token
    let mut closes = vec![0; t.all.len() + 1];  // and end behind one
    let mut commas = vec![false; t.all.len()];
    // What binds less than `~`: such a token ends an operand. `from`: the first token of the bracket or tag.
    let ends = |i: usize, from: usize| match t.all[i].0 {
        Kind::Text => false,
        Kind::Word => {
            let word = t.text(i);
            let of_test = i > from && (t.text(i - 1) == "is" || (t.text(i - 1) == "not" && i > from + 1 && t.text(i - 2) == "is"));
            is_operator(word) && word != "is" && !of_test
        }
        Kind::Sign => match t.sign(i) {
            b'+' | b'-' => i > from && is_value(s, t.all[i - 1]),
            c => b"<>=!,:".contains(&c),
        },
    };
    let mut spans = vec![(0, t.all.len())];
    spans.extend((0..t.all.len()).filter_map(|i| t.closing[i].map(|close| (i + 1, close))));
    for (from, to) in spans {
        let mut begin = from;
        let mut chained = false;
        let mut i = from;
        while i <= to {
            if i == to || ends(i, from) {
                if chained && i > begin {
                    opens[begin] += 1;
                    closes[i - 1] += 1;
                }
                chained = false;
                begin = i + 1;
            } else if t.sign(i) == b'~' {
                chained = true;
                commas[i] = true;
            }
            i = if i < to { t.closing[i].unwrap_or(i) + 1 } else { i + 1 };
        }
    }
    let mut out = String::with_capacity(s.len());
    let mut copied = 0;
    for i in 0..t.all.len() {
        let (_, begin, end) = t.all[i];
        out += &s[copied..begin];
        for _ in 0..opens[i] {
            out += &format!("{CONCAT}(");
        }
        out += if commas[i] { "," } else { &s[begin..end] };
        for _ in 0..closes[i] {
            out.push(')');
        }
        copied = end;
    }
    out + &s[copied..]
}

/// `(a, b)` as a call of TUPLE, also where a tag's value is a bare `a, b`; `+a` as `a`; `-a.b` as `-(a.b)`. The names that a tag sets stay as they are.
fn tuples_as_calls(s: &str, statement: bool) -> String {
    let t = Tag::new(s);
    let word = |i: usize| if i < t.all.len() && t.all[i].0 == Kind::Word { t.text(i) } else { "" };
    // Where the values begin, and whether one stands alone up to the tag's end.
    let (mut first, mut alone) = (0, !statement);
    if statement && matches!(word(0), "for" | "set") {
        let is_set = word(0) == "set";
        let mut i = 1;
        while i < t.all.len() && !(if is_set { t.sign(i) == b'=' } else { word(i) == "in" }) {
            i = t.closing[i].unwrap_or(i) + 1;
        }
        (first, alone) = (i + 1, is_set && i < t.all.len());
    }
    let whole = alone && first < t.all.len() && t.has_comma(first, t.all.len());
    let mut out = String::with_capacity(s.len());
    let mut copied = 0;
    let mut closes = vec![0; t.all.len()];
    for i in first..t.all.len() {
        let (_, at, behind) = t.all[i];
        let operand = i == first || !is_value(s, t.all[i - 1]);
        if whole && i == first {
            out += &s[copied..at];
            out += TUPLE;
            out.push('(');
            copied = at;
        }
        if t.sign(i) == b'(' && operand && t.closing[i].is_some_and(|close| close == i + 1 || t.has_comma(i + 1, close)) {
            out += &s[copied..at];
            out += TUPLE;
            copied = at;
        } else if t.sign(i) == b'+' && operand {
            out += &s[copied..at];
            copied = at + 1;
        } else if t.sign(i) == b'-' && operand && !matches!(t.sign(i + 1), b'-' | b'+') {
            if let Some(last) = t.value_end(i + 1, t.all.len(), b"").filter(|&last| last > t.closing[i + 1].unwrap_or(i + 1)) {
                out += &s[copied..behind];
                out.push('(');
                copied = behind;
                closes[last] += 1;
            }
        }
        if closes[i] > 0 {
            out += &s[copied..behind];
            out += &")".repeat(closes[i]);
            copied = behind;
        }
    }
    out += &s[copied..];
    if whole {
        out.push(')');
    }
    out
}

/// `'%s of %d' % (a, b)` as `'%s of %d'|PERCENT((a, b))`. A left side that is no text is taken for one only where the right side is a tuple.
fn percent_as_filter(s: &str) -> String {
    let t = Tag::new(s);
    let mut out = String::with_capacity(s.len());
    t.write_percent(0, t.all.len(), 0, s.len(), 0, &mut out);
    out
}

/// The inside of a tag; `closing`: of a token that opens a bracket, the one that closes it.
struct Tag<'a> {
    s: &'a str,
    all: Vec<(Kind, usize, usize)>,
    closing: Vec<Option<usize>>,
}

/// Formats within each other's arguments that are written otherwise; the parser refuses far less.
const MAX_NESTED: usize = 200;

impl<'a> Tag<'a> {
    fn new(s: &'a str) -> Tag<'a> {
        let all = tokens(s);
        let mut open = Vec::new();
        let mut closing = vec![None; all.len()];
        for (i, &(kind, begin, _)) in all.iter().enumerate() {
            match s.as_bytes()[begin] {
                _ if kind != Kind::Sign => {}
                b'(' | b'[' | b'{' => open.push(i),
                b')' | b']' | b'}' => {
                    if let Some(o) = open.pop() {
                        closing[o] = Some(i);
                    }
                }
                _ => {}
            }
        }
        Tag { s, all, closing }
    }

    fn sign(&self, i: usize) -> u8 {
        if i < self.all.len() && self.all[i].0 == Kind::Sign { self.s.as_bytes()[self.all[i].1] } else { 0 }
    }

    fn text(&self, i: usize) -> &'a str {
        &self.s[self.all[i].1..self.all[i].2]
    }

    /// The signs of this kind among the tokens [first, end) that stand in no bracket of theirs.
    fn own(&self, first: usize, end: usize, sign: u8) -> impl Iterator<Item = usize> + '_ {
        let mut i = first;
        std::iter::from_fn(move || {
            while i < end {
                let at = i;
                i = self.closing[i].unwrap_or(i) + 1;
                if self.sign(at) == sign {
                    return Some(at);
                }
            }
            None
        })
    }

    fn has_comma(&self, first: usize, end: usize) -> bool {
        self.own(first, end, b',').next().is_some()
    }

    /// The last token of the value that begins at `from`, with what is applied to it; filters too where `more` is "|".
    fn value_end(&self, from: usize, end: usize, more: &[u8]) -> Option<usize> {
        let mut last = if matches!(self.sign(from), b'-' | b'+') { from + 1 } else { from };
        if matches!(self.sign(last), b'(' | b'[' | b'{') {
            last = self.closing[last]?;
        }
        loop {
            match self.sign(last + 1) {
                c if (c == b'.' || more.contains(&c)) && last + 2 < end => last += 2,
                b'(' | b'[' => last = self.closing[last + 1]?,
                _ => break,
            }
        }
        if last < end { Some(last) } else { None }
    }

    /// Writes the bytes [from, to), in which the tokens [first, end) lie.
    fn write_percent(&self, first: usize, end: usize, from: usize, to: usize, depth: usize, out: &mut String) {
        let mut copied = from;
        let mut i = first + 1;
        while i + 1 < end && depth < MAX_NESTED {
            let tuple = self.sign(i) == b'%' && self.sign(i + 1) == b'(' && self.closing[i + 1].is_some_and(|close| self.has_comma(i + 2, close));
            let left = self.all[i - 1].0 == Kind::Text || (tuple && (self.all[i - 1].0 == Kind::Word || matches!(self.sign(i - 1), b')' | b']')));
            let last = if self.sign(i) == b'%' && left { self.value_end(i + 1, end, b"|") } else { None };
            let Some(last) = last else {
                i += 1;
                continue;
            };
            *out += &self.s[copied..self.all[i - 1].2];
            *out += &format!("|{PERCENT}(");
            self.write_percent(i + 1, last + 1, self.all[i + 1].1, self.all[last].2, depth + 1, out);
            out.push(')');
            copied = self.all[last].2;
            i = last + 2;
        }
        *out += &self.s[copied..to.max(copied)];
    }
}
