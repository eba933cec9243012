"""The texts of Asterisk's telephone prompts, put right: accents, digits, stage directions, slips of the keyboard."""

import re

# What the Spanish list writes without accents or with slips; each form has one reading in it.
_SPELLINGS = """
an=en atras=atrás atravez=a|través aun=aún autenticacion=autenticación ayudaran=ayudarán billonesimo=billonésimo
busqueda=búsqueda buzon=buzón codigo=código comenzara=comenzará comprendi=comprendí conexion=conexión
configuracion=configuración contrasena=contraseña contrasenas=contraseñas contrasenia=contraseña cortes=cortés
decimo=décimo defeto=defecto demonstracion=demostración demostracion=demostración despues=después
dieciseis=dieciséis digitos=dígitos dolar=dólar dolares=dólares duodecimo=duodécimo duracion=duración
entidade=entidades escucharas=escucharás estan=están estandar=estándar esten=estén exclamacion=exclamación
extension=extensión fisico=físico grabacion=grabación guiare=guiaré guion=guión informacion=información
ingesando=ingresando ingese=ingrese ingresara=ingresará intentare=intentaré introduccion=introducción
introdusca=introduzca invalida=inválida invalido=inválido japon=japón lider=líder linea=línea logre=logré
manana=mañana maria=maría mas=más menu=menú mesaje=mensaje miercoles=miércoles millon=millón minimos=mínimos
navegara=navegará nimbre=nombre numbre=nombre numerico=numérico numero=número ó=o opcion=opción oscar=óscar
paracambiar=para|cambiar proposito=propósito proximo=próximo rapidamente=rápidamente re-enviado=reenviado
reproduccion=reproducción sabado=sábado septimo=séptimo sera=será tambien=también tecleo=tecleó tecnica=técnica
telefonico=telefónico telefono=teléfono tendra=tendrá trés=tres trigesimo=trigésimo ultimo=último undecimo=undécimo
unica=única unira=unirá uniran=unirán util=útil vacias=vacías valido=válido veintidos=veintidós
veintiseis=veintiséis veintitres=veintitrés victor=víctor vigesimo=vigésimo
"""
SPELLINGS = {old: new.replace("|", " ") for old, new in (pair.split("=") for pair in _SPELLINGS.split())}
# What depends on the neighbours: "this" or "is", "it" or "I know", "that" or "which".
_READINGS = (
    (r"\besta (?=usted|ahora|en la|a punto|usando|configurad|ocupad|disponible|fuera|libre|terriblemente)", "está "),
    (r"\bno se quien\b", "no sé quién"),
    (r"\b(a|en) que carpeta\b", r"\1 qué carpeta"),
    (r"\bmudo mudo\b", "modo mudo"),
)
_DIGITS = {
    "es": "cero uno dos tres cuatro cinco seis siete ocho nueve diez".split(),
    "en": "zero one two three four five six seven eight nine ten".split(),
}
_CONTRACTIONS = {
    "can't": "cannot", "don't": "do not", "i'm": "I am", "that's": "that is", "we're": "we are", "you'd": "you would",
    "you're": "you are", "you've": "you have", "thru": "through", "represenatives": "representatives",
    "umute": "unmute",
}  # fmt: skip
# Prompts in which "marque 1" is spoken as "marque el número uno", or every digit as "número uno" (whisper hears it).
_WITH_ARTICLE = frozenset(
    """dir-instr screen-callee-options vm-calldiffnum vm-delete vm-forward vm-instructions vm-next vm-onefor vm-prev
    vm-saveoper vm-tocallnum vm-toenternumber vm-toforward vm-tohearenv vm-tomakecall vm-undelete""".split()
)
_WITH_NOUN = frozenset(
    """conf-adminmenu conf-usermenu dictate/play_help dictate/record_help dir-intro priv-callee-options vm-advopts
    vm-forwardoptions vm-leavemsg vm-msginstruct vm-opts vm-repeat vm-review vm-tempgreeting vm-tempgreeting2
    vm-tocallback vm-toreply vm-torerecord""".split()
)
# Names of letters that everybody spells alike, for the prompts that write the letter alone.
_LETTERS = dict(
    pair.split("=")
    for pair in """b=be c=ce d=de f=efe g=ge h=hache j=jota k=ka l=ele m=eme n=ene p=pe q=cu r=erre s=ese t=te x=equis
    z=zeta""".split()
)
# Prompts whose two texts do not mean the same: other words to spell with, names of protocols, letters of several names.
_UNLIKE = re.compile(r"phonetic/|spy-|digits/hundred$|digits/[ap]-m$|letters/[vwy]$|vm-Family$")
# Prompts in which something else is said than is written: (language, prompt) -> (written, spoken).
_SPOKEN = {
    ("es", "dictate/both_help"): ("nuevo de archivo", "nuevo archivo"),
    ("es", "followme/options"): ("para aceptar la llamada o 2", "o presione 2"),
    ("es", "letters/exclaimation-point"): ("signo", "punto"),
    ("es", "vm-invalid-password"): (" Por favor intente de nuevo.", ""),
    ("en", "vm-invalid-password"): ("  Please try again.", ""),
    ("es", "vm-mismatch"): (" Por favor intente de nuevo.", ""),
    ("en", "vm-mismatch"): ("  Please try again.", ""),
    ("es", "vm-nomore"): ("hay mensajes", "hay más mensajes"),
    ("es", "vm-record-prepend"): ("Al escuchar", "Presione 4 para la configuración del saludo temporal. Al escuchar"),
    ("en", "vm-record-prepend"): ("At the tone", "Press 4 for the temporary greeting setup. At the tone"),
    ("es", "vm-review"): ("2 para", "marque 2 para"),
    ("en", "priv-callpending"): ("themselves as:", "themselves as"),
}


def as_spoken(text, name, language):
    """What is said in the prompt of this name where it is not quite what is written; "" if it cannot be used."""
    if _UNLIKE.match(name):
        return ""
    if language == "es" and name.startswith("letters/"):
        return _LETTERS.get(text, text)
    written, spoken = _SPOKEN.get((language, name), ("", ""))
    text = text.replace(written, spoken) if written else text
    if language == "es" and name in _WITH_ARTICLE:
        text = re.sub(r"\b(marque|presione) ([1-9])\b", r"\1 el número \2", text, flags=re.IGNORECASE)
    elif language == "es" and name in _WITH_NOUN:
        text = re.sub(r"(?<!\d o )\b([1-9])\b", r"número \1", text).replace(" u número", " o número")
    return text


def parse_list(text):
    """{prompt: text as written} of a core-sounds list; of a prompt that stands there twice, the first."""
    found = {}
    for line in text.splitlines():
        name, colon, words = line.partition(":")
        if colon and not name.startswith(";"):
            found.setdefault(name.strip(), words.strip())
    return found


def mend_encoding(text):
    """Undoes UTF-8 that was read as Latin-1 ("MenÃº")."""
    try:
        return text.encode("latin-1").decode("utf-8") if "Ã" in text or "Â" in text else text
    except UnicodeError:
        return text


def _digits_to_words(text, language):
    """Digits alone as words; None where a longer number could be read in several ways."""
    if re.search(r"\d\d|\d[.,]\d", re.sub(r"\b10\b", "", text)):
        return None
    return re.sub(r"\d+", lambda match: _DIGITS[language][int(match[0])], text)


def _tidy(text):
    text = re.sub(r"\.{2,}|[\"“”]", " ", text)
    text = re.sub(r"\s+", " ", text).strip(" ,;")
    text = re.sub(r" ([.,;:?!])", r"\1", text)
    return text[:1].upper() + text[1:]


def spanish(text):
    """A Spanish prompt's text as it is spoken, or None if it has no words or no sure reading."""
    text = mend_encoding(text)
    if re.fullmatch(r"\s*[\[(].*[\])]\s*", text) or re.search(r"www|\bdahdi\b|h-323", text.lower()):
        return None
    text = _digits_to_words(re.sub(r"[\[\]]", " ", text), "es")
    if not text or not re.search(r"\w", text):
        return None

    def spell(match):
        word = match[0]
        right = SPELLINGS.get(word.lower(), word)
        return right.capitalize() if word[0].isupper() and right is not word else right

    text = re.sub(r"[\w]+(?:-\w+)?", spell, text)
    for pattern, right in _READINGS:
        text = re.sub(pattern, lambda match, right=right: _keep_case(match, right), text, flags=re.IGNORECASE)
    text = re.sub(r"(^|[.!] )([^.!?¿]+\?)", r"\1¿\2", text)
    text = re.sub(r"(^|[.!] )([^.!?¡]+!)", r"\1¡\2", text)
    return _tidy(text)


def _keep_case(match, right):
    new = match.expand(right)
    return new[:1].upper() + new[1:] if match[0][:1].isupper() else new


def english(text):
    """An English prompt's text without digits, contractions and stage directions, or None."""
    if re.fullmatch(r"\s*[\[(].*[\])]\s*", text):
        return None
    text = re.sub(r"\(.*?\)|\[.*?\]", " ", text).replace("*", "star").replace("#", "pound")
    text = _digits_to_words(text, "en")
    if not text or not re.search(r"\w", text):
        return None

    def expand(match):
        right = _CONTRACTIONS.get(match[0].lower(), match[0])
        return right[:1].upper() + right[1:] if match[0][0].isupper() else right

    return _tidy(re.sub(r"[\w']+", expand, text))
