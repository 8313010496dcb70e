//! The syntax of xl's configuration files (`xl.cfg(5)`): `key = value`, a line each or with
//! semicolons between; values are texts in quotes, numbers, and lists in brackets, over
//! several lines if need be; `#` begins a comment. `+=` adds to a text or a list.

use super::{ConfigError, ConfigResult, Table, Value};

/// Lists within lists are no deeper than this.
const DEEPEST: usize = 8;

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

/// Reads a file.
///
/// # Errors
/// With the number of the line that is not understood.
pub fn parse(text: &str) -> ConfigResult<Table> {
    let mut reader = Reader {
        text: text.as_bytes(),
        at: 0,
    };
    let mut table = Table::new();
    loop {
        reader.skip_lines();
        if reader.peek().is_none() {
            return Ok(table);
        }
        let key = reader.key()?;
        reader.skip_blanks();
        let adds = reader.take(b'+');
        if !reader.take(b'=') {
            return Err(reader.wrong("expected \"=\" after the key"));
        }
        reader.skip_lines_within();
        let value = reader.value(0)?;
        reader.skip_blanks();
        if !matches!(reader.peek(), None | Some(b'\n' | b'\r' | b';')) {
            return Err(reader.wrong("expected the end of the line after the value"));
        }
        let value = match (adds, table.remove(&key)) {
            (true, Some(old)) => match (old, value) {
                (Value::Text(old), Value::Text(new)) => Value::Text(old + &new),
                (Value::List(mut old), Value::List(new)) => {
                    old.extend(new);
                    Value::List(old)
                }
                _ => return Err(reader.wrong("\"+=\" adds texts to texts and lists to lists")),
            },
            (_, _) => value,
        };
        table.insert(key, value);
    }
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn take(&mut self, wanted: u8) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.at += 1;
        }
        found
    }

    /// An error at the line that is being read.
    fn wrong(&self, why: &str) -> ConfigError {
        let before = self.text.get(..self.at).unwrap_or(self.text);
        let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
        ConfigError(format!("line {line}: {why}"))
    }

    fn skip_while(&mut self, also: fn(u8) -> bool) {
        while let Some(byte) = self.peek() {
            if byte == b'#' {
                while self.peek().is_some_and(|byte| byte != b'\n') {
                    self.at += 1;
                }
            } else if byte == b'\\' && self.text.get(self.at + 1) == Some(&b'\n') {
                self.at += 2;
            } else if matches!(byte, b' ' | b'\t') || also(byte) {
                self.at += 1;
            } else {
                break;
            }
        }
    }

    fn skip_blanks(&mut self) {
        self.skip_while(|_| false);
    }

    fn skip_lines(&mut self) {
        self.skip_while(|byte| matches!(byte, b'\n' | b'\r' | b';'));
    }

    /// Blanks and ends of lines, where they mean nothing.
    fn skip_lines_within(&mut self) {
        self.skip_while(|byte| matches!(byte, b'\n' | b'\r'));
    }

    fn key(&mut self) -> ConfigResult<String> {
        let start = self.at;
        while self
            .peek()
            .is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
        {
            self.at += 1;
        }
        let key = self.text.get(start..self.at).unwrap_or_default();
        if key.is_empty() || key[0].is_ascii_digit() {
            return Err(self.wrong("expected the name of a key"));
        }
        Ok(String::from_utf8_lossy(key).into_owned())
    }

    fn value(&mut self, depth: usize) -> ConfigResult<Value> {
        match self.peek() {
            Some(b'"' | b'\'') => self.quoted().map(Value::Text),
            Some(b'[') if depth < DEEPEST => self.list(depth),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b'[') => Err(self.wrong("lists within lists within lists")),
            _ => Err(self.wrong("expected a text in quotes, a number, or a list in brackets")),
        }
    }

    fn list(&mut self, depth: usize) -> ConfigResult<Value> {
        self.at += 1;
        let mut list = Vec::new();
        loop {
            self.skip_lines_within();
            if self.take(b']') {
                return Ok(Value::List(list));
            }
            list.push(self.value(depth + 1)?);
            self.skip_lines_within();
            if !self.take(b',') && self.peek() != Some(b']') {
                return Err(self.wrong("expected \",\" or \"]\" in the list"));
            }
        }
    }

    fn number(&mut self) -> ConfigResult<Value> {
        let start = self.at;
        self.take(b'-');
        while self.peek().is_some_and(|byte| byte.is_ascii_alphanumeric()) {
            self.at += 1;
        }
        let text = String::from_utf8_lossy(self.text.get(start..self.at).unwrap_or_default());
        let (sign, digits) = match text.strip_prefix('-') {
            Some(digits) => (-1, digits),
            None => (1, &*text),
        };
        let value = match digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
            Some(hex) => i64::from_str_radix(hex, 16),
            None if digits.len() > 1 && digits.starts_with('0') => i64::from_str_radix(digits, 8),
            None => digits.parse(),
        };
        match value {
            Ok(value) => Ok(Value::Number(sign * value)),
            Err(_) => Err(self.wrong(&format!("\"{text}\" is no number (texts are in quotes)"))),
        }
    }

    fn quoted(&mut self) -> ConfigResult<String> {
        let quote = self.next();
        let mut bytes = Vec::new();
        loop {
            match self.next() {
                None | Some(b'\n') => {
                    return Err(self.wrong("a text without its closing quote"));
                }
                byte if byte == quote => break,
                Some(b'\\') => {
                    let escape = self.escape()?;
                    bytes.push(escape);
                }
                Some(byte) => bytes.push(byte),
            }
        }
        String::from_utf8(bytes).map_err(|_| self.wrong("a text that is not UTF-8"))
    }

    fn escape(&mut self) -> ConfigResult<u8> {
        Ok(match self.next() {
            Some(b'a') => 7,
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'v') => 11,
            Some(byte @ (b'\\' | b'\'' | b'"')) => byte,
            Some(b'x') => self.code(16, 2)?,
            Some(b'0'..=b'7') => {
                self.at -= 1;
                self.code(8, 3)?
            }
            _ => return Err(self.wrong("an unknown escape in a text")),
        })
    }

    /// The byte with a number of up to so many digits.
    fn code(&mut self, base: u32, most: usize) -> ConfigResult<u8> {
        let mut value = None;
        for _ in 0..most {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(base));
            let Some(digit) = digit else {
                break;
            };
            self.at += 1;
            value = Some(value.unwrap_or(0u32) * base + digit);
        }
        value
            .and_then(|value| u8::try_from(value).ok())
            .ok_or_else(|| self.wrong("an unknown escape in a text"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    #[test]
    fn files_are_read_as_xl_reads_them() {
        let table = parse(
            "# a guest\nname = \"web\"; memory=0x200\nextra='a \"b\"' # rest\n\
             disk = [ 'vda,part=2,xvda,w',\n  # between\n 'vdb,raw,xvdb,r', ]\n\
             vif=[]\nlong = \\\n 'x'\nextra += ' c'\r\ndisk += ['z']\nn = -1\ne='\\x41\\101\\n'",
        )
        .expect("a good file");
        assert_eq!(table["name"], text("web"));
        assert_eq!(table["memory"], Value::Number(512));
        assert_eq!(table["extra"], text("a \"b\" c"));
        let disks = ["vda,part=2,xvda,w", "vdb,raw,xvdb,r", "z"].map(text);
        assert_eq!(table["disk"], Value::List(disks.to_vec()));
        assert_eq!(table["vif"], Value::List(vec![]));
        assert_eq!(table["long"], text("x"));
        assert_eq!(table["n"], Value::Number(-1));
        assert_eq!(table["e"], text("AA\n"));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (file, line, why) in [
            ("name = web", 1, "quotes"),
            ("a=1\n\nname \"x\"", 3, "\"=\""),
            ("a='x", 1, "closing quote"),
            ("a=[1 2]", 1, "\"]\""),
            ("a=12ab", 1, "no number"),
            ("a=1 b=2", 1, "end of the line"),
            ("a='\\q'", 1, "escape"),
            ("\n1a=1", 2, "name of a key"),
            ("a=[[[[[[[[[1]]]]]]]]]", 1, "lists within"),
            ("a=1\na+='x'", 2, "+="),
        ] {
            let error = parse(file).expect_err(file).to_string();
            assert!(error.starts_with(&format!("line {line}: ")), "{error}");
            assert!(error.contains(why), "{file}: {error}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(
            prop_oneof![
                proptest::sample::select(b"ab1='\"[],;\\\n #+x0-".to_vec()),
                any::<u8>(),
            ], 0..60)) {
            let _ = parse(&String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn texts_come_back(value in "[^\\\\'\n]{0,40}") {
            let table = parse(&format!("k = '{value}'")).expect("a quoted text");
            prop_assert_eq!(&table["k"], &text(&value));
        }
    }
}
