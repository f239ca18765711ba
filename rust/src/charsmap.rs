//! Normalisation rules of sentencepiece, applied as sentencepiece does: at each place the longest text that has a rule. (The step
//! `Precompiled` of the tokenizers library looks at whole graphemes and takes the shortest.)

use std::borrow::Cow;

use serde::Deserialize;

/// What opens a file that has rules, and what stands there without them: the tokenizers library takes no keys of others.
const OPENING: &[u8] = b"{\"version\":\"1.0\",\"charsmap\":";
const VERSION: &[u8] = b"{\"version\":\"1.0\"";

#[derive(Deserialize)]
struct Source {
    rules: String,
    /// Texts that no rule touches.
    keep: Vec<String>,
}

pub struct Charsmap {
    units: Vec<u32>,
    texts: Vec<u8>,  // each ends with a 0
    keep: Vec<String>,
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for c in text.trim_end_matches('=').bytes() {
        let six = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | six as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    Some(out)
}

impl Charsmap {
    /// The rules of a file and the file without them.
    pub fn split(json: &[u8]) -> Result<(Option<Charsmap>, Cow<'_, [u8]>), String> {
        let Some(behind) = json.strip_prefix(OPENING) else { return Ok((None, Cow::Borrowed(json))) };
        let mut values = serde_json::Deserializer::from_slice(behind).into_iter::<Source>();
        let source = values.next().ok_or("no value".to_string()).and_then(|v| v.map_err(|e| e.to_string())).map_err(|e| format!("tokenizer.json: charsmap: {e}"))?;
        let rest = [VERSION, &behind[values.byte_offset()..]].concat();
        let wrong = || "tokenizer.json: the normalisation rules are damaged".to_string();
        let bytes = base64(&source.rules).ok_or_else(wrong)?;
        let size = bytes.get(..4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize).ok_or_else(wrong)?;
        let trie = bytes[4..].get(..size).filter(|t| t.len() % 4 == 0 && !t.is_empty()).ok_or_else(wrong)?;
        let units = trie.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let texts = bytes[4 + size..].to_vec();
        std::str::from_utf8(&texts).map_err(|_| wrong())?;
        let mut keep = source.keep;
        keep.retain(|k| !k.is_empty());
        keep.sort_by_key(|k| std::cmp::Reverse(k.len()));
        Ok((Some(Charsmap { units, texts, keep }), Cow::Owned(rest)))
    }

    /// The longest rule at the start of `s`: the bytes it takes and its text. The trie is a double array: a unit holds the label that
    /// leads to it, whether its child is a leaf, and the offset of its children.
    fn longest(&self, s: &[u8]) -> Option<(usize, &str)> {
        let offset = |unit: u32| (unit >> 10 << ((unit & 1 << 9) >> 6)) as usize;
        let mut at = offset(self.units[0]);
        let mut found = None;
        for (i, &c) in s.iter().enumerate() {
            at ^= c as usize;
            let unit = *self.units.get(at)?;
            if c == 0 || unit & (1 << 31 | 0xff) != c as u32 {
                break;
            }
            at ^= offset(unit);
            if unit >> 8 & 1 == 1 {
                found = Some((i + 1, (self.units.get(at)? & 0x7fff_ffff) as usize));
            }
        }
        let (taken, begin) = found?;
        let text = self.texts.get(begin..)?;
        let end = text.iter().position(|&b| b == 0)?;
        std::str::from_utf8(&text[..end]).ok().map(|text| (taken, text))
    }

    pub fn normalize(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let (taken, written) = match self.keep.iter().find(|k| rest.starts_with(k.as_str())) {
                Some(k) => (k.len(), k.as_str()),
                None => self.longest(rest.as_bytes()).filter(|&(n, _)| rest.is_char_boundary(n)).unwrap_or((c.len_utf8(), &rest[..c.len_utf8()])),
            };
            out += written;
            rest = &rest[taken..];
        }
        out
    }
}
