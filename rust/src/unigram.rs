//! sentencepiece's unigram model as sentencepiece runs it: scores are summed in 32 bits, so that equal sums of different pieces tie where they tie
//! there and the first one found stays. (The tokenizers library sums in 64 bits.)

use std::borrow::Cow;

use serde::Deserialize;
use tokenizers::models::ModelWrapper;
use tokenizers::{Token, Tokenizer};

/// What opens a file of such a model, and what stands there without it: the tokenizers library takes no keys of others.
const OPENING: &[u8] = b"{\"version\":\"1.0\",\"sentencepiece\":";
const VERSION: &[u8] = b"{\"version\":\"1.0\"";
const UNKNOWN_PENALTY: f32 = 10.0;

#[derive(Deserialize)]
pub struct Source {
    /// Pieces that texts are not cut into: control pieces, bytes.
    unused: Vec<u32>,
    /// The piece of what is in no other.
    unknown: Option<u32>,
}

/// Children stand side by side, sorted by their byte.
struct Node {
    byte: u8,
    children: (u32, u32),  // begin, end
    id: Option<u32>,
}

pub struct Unigram {
    nodes: Vec<Node>,
    scores: Vec<f32>,
    texts: Vec<String>,
    unknown: Option<u32>,
    unknown_score: f32,
    bytes: Option<Vec<u32>>,  // the ids of <0x00> to <0xFF>
}

/// The best way to the text's place that it belongs to.
#[derive(Clone)]
struct Best {
    score: f32,
    from: usize,
    id: Option<u32>,  // None: an unknown character
}

/// What sentencepiece knows of its pieces, and the file without that.
pub fn split(json: &[u8]) -> Result<(Option<Source>, Cow<'_, [u8]>), String> {
    let Some(behind) = json.strip_prefix(OPENING) else { return Ok((None, Cow::Borrowed(json))) };
    let mut values = serde_json::Deserializer::from_slice(behind).into_iter::<Source>();
    let source = values.next().ok_or("no value".to_string()).and_then(|v| v.map_err(|e| e.to_string())).map_err(|e| format!("tokenizer.json: sentencepiece: {e}"))?;
    Ok((Some(source), Cow::Owned([VERSION, &behind[values.byte_offset()..]].concat())))
}

impl Unigram {
    pub fn new(tokenizer: &Tokenizer, source: &Source) -> Result<Unigram, String> {
        let ModelWrapper::Unigram(model) = tokenizer.get_model() else { return Err("tokenizer.json: 'sentencepiece' stands at no Unigram model".to_string()) };
        let (texts, scores): (Vec<String>, Vec<f32>) = model.iter().map(|(text, score)| (text.clone(), *score as f32)).unzip();
        let mut used = vec![true; texts.len()];
        let no_piece = |id: u32| format!("tokenizer.json: sentencepiece has the id {id}, but there are {} pieces", texts.len());
        for &id in &source.unused {
            *used.get_mut(id as usize).ok_or_else(|| no_piece(id))? = false;
        }
        if let Some(id) = source.unknown.filter(|id| *id as usize >= texts.len()) {
            return Err(no_piece(id));
        }
        let mut pieces: Vec<(&[u8], u32)> = texts.iter().enumerate().filter(|(id, text)| used[*id] && !text.is_empty()).map(|(id, text)| (text.as_bytes(), id as u32)).collect();
        pieces.sort();
        pieces.dedup_by(|b, a| a.0 == b.0);  // the first of one text stays
        let least = pieces.iter().map(|(_, id)| scores[*id as usize]).fold(f32::INFINITY, f32::min);
        let mut nodes = vec![Node { byte: 0, children: (0, 0), id: None }];
        // Level by level: each node with the range of pieces below it and their bytes before.
        let mut open = std::collections::VecDeque::from([(0usize, 0usize, pieces.len(), 0usize)]);
        while let Some((node, begin, end, depth)) = open.pop_front() {
            let mut at = begin;
            if at < end && pieces[at].0.len() == depth {
                nodes[node].id = Some(pieces[at].1);
                at += 1;
            }
            let first = nodes.len();
            while at < end {
                let byte = pieces[at].0[depth];
                let next = at + pieces[at..end].iter().take_while(|p| p.0[depth] == byte).count();
                open.push_back((nodes.len(), at, next, depth + 1));
                nodes.push(Node { byte, children: (0, 0), id: None });
                at = next;
            }
            nodes[node].children = (first as u32, nodes.len() as u32);
        }
        let bytes = if model.byte_fallback() {
            let id = |b: u32| tokenizer.token_to_id(&format!("<0x{b:02X}>"));
            Some((0..256).map(id).collect::<Option<Vec<u32>>>().ok_or("tokenizer.json: byte_fallback is on, but a byte has no piece")?)
        } else {
            None
        };
        Ok(Unigram { nodes, scores, texts, unknown: source.unknown, unknown_score: least - UNKNOWN_PENALTY, bytes })
    }

    fn child(&self, node: usize, byte: u8) -> Option<usize> {
        let (begin, end) = self.nodes[node].children;
        let children = &self.nodes[begin as usize..end as usize];
        children.binary_search_by_key(&byte, |n| n.byte).ok().map(|at| begin as usize + at)
    }

    pub fn tokenize(&self, text: &str) -> Result<Vec<Token>, String> {
        let mut best: Vec<Option<Best>> = vec![None; text.len() + 1];
        best[0] = Some(Best { score: 0.0, from: 0, id: None });
        let offer = |best: &mut Option<Best>, score: f32, from: usize, id: Option<u32>| {
            if best.as_ref().is_none_or(|b| score > b.score) {
                *best = Some(Best { score, from, id });
            }
        };
        for (at, c) in text.char_indices() {
            let Some(here) = best[at].as_ref().map(|b| b.score) else { continue };
            let mut single = false;
            let mut node = 0;
            for (i, &byte) in text.as_bytes()[at..].iter().enumerate() {
                let Some(next) = self.child(node, byte) else { break };
                node = next;
                if let Some(id) = self.nodes[node].id {
                    single |= i + 1 == c.len_utf8();
                    offer(&mut best[at + i + 1], self.scores[id as usize] + here, at, Some(id));
                }
            }
            if !single {
                offer(&mut best[at + c.len_utf8()], self.unknown_score + here, at, None);
            }
        }
        let mut pieces = Vec::new();
        let mut end = text.len();
        while end > 0 {
            let Some(b) = &best[end] else { return Err("tokenizer: a text has no way through the vocabulary".to_string()) };
            pieces.push((b.from, end, b.id));
            end = b.from;
        }
        pieces.reverse();
        let mut out: Vec<Token> = Vec::new();
        let mut after_unknown = false;
        for (from, to, id) in pieces {
            match (id, &self.bytes, self.unknown) {
                (Some(id), ..) => out.push(Token::new(id, self.texts[id as usize].clone(), (from, to))),
                (None, Some(bytes), _) => {
                    for (i, b) in text.as_bytes()[from..to].iter().enumerate() {
                        let id = bytes[*b as usize];
                        out.push(Token::new(id, self.texts[id as usize].clone(), (from + i, from + i + 1)));
                    }
                }
                // Unknown characters in a row are one piece.
                (None, None, Some(_)) if after_unknown => {
                    if let Some(last) = out.last_mut() {
                        last.value.push_str(&text[from..to]);
                        last.offsets.1 = to;
                    }
                }
                (None, None, Some(unknown)) => out.push(Token::new(unknown, text[from..to].to_string(), (from, to))),
                (None, None, None) => return Err(format!("tokenizer: '{}' is in no piece, and the vocabulary has none for what is unknown", &text[from..to])),
            }
            after_unknown = id.is_none();
        }
        Ok(out)
    }
}
