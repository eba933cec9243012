"""The words of the quickstart domain: nouns, adjectives and fixed lists, Spanish beside English.

``productions()`` turns the tables into grammar productions: nonterminal -> list of (Spanish, English).
Agreement is in the name of the nonterminal: ``.ms .fs .mp .fp`` for gender and number.
"""

from __future__ import annotations

from synchronous import GENDER_NUMBER

# class: gender singular/plural = English singular/plural; "-" marks a form that the domain does not use.
NOUNS = """
place_at: f estación/- = station/-
place_at: m hotel/- = hotel/-
place_at: m restaurante/- = restaurant/-
place_at: f farmacia/- = pharmacy/-
place_at: m banco/- = bank/-
place_at: m hospital/- = hospital/-
place_at: m museo/- = museum/-
place_at: f playa/- = beach/-
place_at: m mercado/- = market/-
place_at: m aeropuerto/- = airport/-
place_at: f iglesia/- = church/-
place_at: f piscina/- = pool/-
place_in: m parque/- = park/-
place_in: f plaza/- = square/-
landmark: m puente/- = bridge/-
landmark: f parada de autobús/- = bus stop/-
vehicle: m tren/- = train/-
vehicle: m autobús/- = bus/-
vehicle: m avión/- = plane/-
fitting: f ducha/- = shower/-
fitting: m ascensor/- = elevator/-
supply: f toalla/toallas = towel/towels
supply: f llave/- = key/-
supply: f cama/camas = bed/beds
belonging: f maleta/maletas = suitcase/suitcases
belonging: m pasaporte/- = passport/-
belonging: f bolsa/- = bag/-
belonging: m teléfono/- = phone/-
belonging: m billete/billetes = ticket/tickets
belonging: m libro/libros = book/books
wear: f camisa/camisas = shirt/shirts
wear: f chaqueta/- = jacket/-
wear: m vestido/vestidos = dress/dresses
wear: m abrigo/- = coat/-
wear: m -/zapatos = -/shoes
wear: f -/botas = -/boots
serving: f sopa/- = soup/-
serving: f ensalada/- = salad/-
serving: m bocadillo/- = sandwich/-
serving: m helado/- = ice cream/-
serving: m café/cafés = coffee/coffees
serving: m té/- = tea/-
serving: f cerveza/cervezas = beer/beers
serving: m zumo/- = juice/-
mass: m pollo/- = chicken/-
mass: m pescado/- = fish/-
mass: m queso/- = cheese/-
mass: m pan/- = bread/-
mass: m vino/- = wine/-
mass: f leche/- = milk/-
kin: m hermano/- = brother/-
kin: f hermana/- = sister/-
kin: m hijo/hijos = son/children
kin: f hija/hijas = daughter/daughters
kin: m amigo/amigos = friend/friends
kin: m padre/padres = father/parents
kin: f madre/- = mother/-
kin: m marido/- = husband/-
kin: f mujer/- = wife/-
body: f cabeza/- = head/-
body: m estómago/- = stomach/-
body: f espalda/- = back/-
body: f pierna/piernas = leg/legs
body: m pie/pies = foot/feet
meal: m desayuno/- = breakfast/-
meal: m almuerzo/- = lunch/-
meal: f cena/- = dinner/-
"""

# class: masculine singular = English [comparative]
ADJECTIVES = """
colour: rojo = red
colour: azul = blue
colour: negro = black
colour: blanco = white
size: grande = big
size: pequeño = small
price: caro = expensive
price: barato = cheap
look: bonito = beautiful
feeling: cansado = tired
feeling: enfermo = sick
tidy: limpio = clean
tidy: sucio = dirty
heat: frío = cold
heat: caliente = hot
comfort: cómodo = comfortable
comfort: tranquilo = quiet
hours: abierto = open
hours: cerrado = closed
"""

# class: Spanish = English, without agreement.
PHRASES = """
name: maría = Maria
name: david = David
name: daniel = Daniel
name: laura = Laura
city: madrid = Madrid
city: barcelona = Barcelona
city: parís = Paris
city: londres = London
city: roma = Rome
day: lunes = Monday
day: martes = Tuesday
day: miércoles = Wednesday
day: jueves = Thursday
day: viernes = Friday
day: sábado = Saturday
day: domingo = Sunday
hour: dos = two
hour: tres = three
hour: cuatro = four
hour: cinco = five
hour: seis = six
hour: siete = seven
hour: ocho = eight
hour: nueve = nine
hour: diez = ten
hour: once = eleven
hour: doce = twelve
few: dos = two
few: tres = three
few: cuatro = four
few: cinco = five
few: seis = six
ten: diez = ten
ten: veinte = twenty
ten: treinta = thirty
ten: cincuenta = fifty
hundred: cien = one hundred
language: inglés = English
language: español = Spanish
weather: calor = hot
weather: frío = cold
need: hambre = hungry
need: sed = thirsty
illness: fiebre = a fever
illness: tos = a cough
"""


def inflect(adjective: str) -> tuple[str, str, str, str]:
    """The four forms (ms, fs, mp, fp) of a Spanish adjective given as masculine singular."""
    if adjective.endswith("o"):
        stem = adjective[:-1]
        return adjective, stem + "a", stem + "os", stem + "as"
    plural = adjective + ("s" if adjective.endswith("e") else "es")
    return adjective, adjective, plural, plural


def _entries(table: str):
    for line in table.strip().splitlines():
        name, entry = line.split(":", 1)
        spanish, english = (side.strip() for side in entry.split("="))
        yield name, spanish, english


def productions() -> dict[str, list[tuple[str, str]]]:
    """All lexical productions: nonterminal -> list of (Spanish, English) strings, in table order."""
    rules: dict[str, list[tuple[str, str]]] = {}
    for name, spanish, english in _entries(NOUNS):
        gender, forms = spanish.split(" ", 1)
        for number, es, en in zip("sp", forms.split("/"), english.split("/"), strict=True):
            if es != "-":
                rules.setdefault(f"{name}.{gender}{number}", []).append((es, en))
    for name, spanish, english in _entries(ADJECTIVES):
        for features, es in zip(GENDER_NUMBER, inflect(spanish), strict=True):
            rules.setdefault(f"{name}.{features}", []).append((es, english))
    for name, spanish, english in _entries(PHRASES):
        rules.setdefault(name, []).append((spanish, english))
    return rules
