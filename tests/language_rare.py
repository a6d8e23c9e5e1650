"""Short sentences of technical or rare words for the tests of language: no list of words was made on them."""

from __future__ import annotations

OTHERS: dict[str, tuple[str, ...]] = {
    "en": (
        "Photosynthesis converts sunlight into chemical energy.",
        "Nobody knew where Anna had gone.",
    ),
    "es": (
        "La fotosíntesis convierte la luz solar en energía química.",
        "Nadie sabía adónde había ido Ana.",
    ),
    "pt": (
        "A fotossíntese converte a luz solar em energia química.",
        "Ninguém sabia para onde a Ana tinha ido.",
    ),
    "fr": (
        "La photosynthèse convertit la lumière du soleil en énergie chimique.",
        "Personne ne savait où Anne était partie.",
    ),
    "de": (
        "Die Photosynthese wandelt Sonnenlicht in chemische Energie um.",
        "Niemand wusste, wohin Anna gegangen war.",
    ),
    "it": (
        "La fotosintesi trasforma la luce del sole in energia chimica.",
        "Nessuno sapeva dove fosse andata Anna.",
    ),
    "nl": (
        "Fotosynthese zet zonlicht om in chemische energie.",
        "Niemand wist waar Anna naartoe was gegaan.",
    ),
    "sv": (
        "Fotosyntesen omvandlar solljus till kemisk energi.",
        "Ingen visste vart Anna hade tagit vägen.",
    ),
    "da": (
        "Fotosyntesen omdanner sollys til kemisk energi.",
        "Ingen vidste, hvor Anna var gået hen.",
    ),
    "no": (
        "Fotosyntesen gjør sollys om til kjemisk energi.",
        "Ingen visste hvor Anna hadde gått.",
    ),
    "fi": (
        "Fotosynteesi muuttaa auringonvalon kemialliseksi energiaksi.",
        "Kukaan ei tiennyt, minne Anna oli mennyt.",
    ),
    "pl": (
        "Fotosynteza przekształca światło słoneczne w energię chemiczną.",
        "Nikt nie wiedział, dokąd poszła Anna.",
    ),
    "cs": (
        "Fotosyntéza přeměňuje sluneční světlo na chemickou energii.",
        "Nikdo nevěděl, kam Anna odešla.",
    ),
    "sk": (
        "Fotosyntéza premieňa slnečné svetlo na chemickú energiu.",
        "Nikto nevedel, kam Anna odišla.",
    ),
    "hu": (
        "A fotoszintézis a napfényt kémiai energiává alakítja.",
        "Senki sem tudta, hová ment Anna.",
    ),
    "ro": (
        "Fotosinteza transformă lumina soarelui în energie chimică.",
        "Nimeni nu știa unde plecase Ana.",
    ),
    "tr": (
        "Fotosentez güneş ışığını kimyasal enerjiye dönüştürür.",
        "Ayşe'nin nereye gittiğini kimse bilmiyordu.",
    ),
    "vi": (
        "Quang hợp biến ánh sáng mặt trời thành năng lượng hóa học.",
        "Không ai biết Lan đã đi đâu.",
    ),
    "id": (
        "Fotosintesis mengubah sinar matahari menjadi energi kimia.",
        "Tidak ada yang tahu ke mana Ana pergi.",
    ),
    "sw": (
        "Usanisinuru hubadilisha mwanga wa jua kuwa nishati ya kemikali.",
        "Hakuna aliyejua Ana alikokwenda.",
    ),
    "tl": (
        "Ginagawang enerhiyang kemikal ng potosintesis ang sikat ng araw.",
        "Walang nakakaalam kung saan pumunta si Ana.",
    ),
    "hr": (
        "Fotosinteza pretvara sunčevu svjetlost u kemijsku energiju.",
        "Nitko nije znao kamo je Ana otišla.",
    ),
    "sl": (
        "Fotosinteza pretvarja sončno svetlobo v kemično energijo.",
        "Nihče ni vedel, kam je odšla Ana.",
    ),
    "et": (
        "Fotosüntees muudab päikesevalguse keemiliseks energiaks.",
        "Keegi ei teadnud, kuhu Anna läks.",
    ),
    "lv": (
        "Fotosintēze pārvērš saules gaismu ķīmiskajā enerģijā.",
        "Neviens nezināja, kurp Anna bija aizgājusi.",
    ),
    "lt": (
        "Fotosintezė saulės šviesą paverčia chemine energija.",
        "Niekas nežinojo, kur išėjo Ana.",
    ),
    "ca": (
        "La fotosíntesi converteix la llum del sol en energia química.",
        "Ningú no sabia on havia anat l'Anna.",
    ),
    "af": (
        "Fotosintese skakel sonlig om in chemiese energie.",
        "Niemand het geweet waarheen Anna gegaan het nie.",
    ),
    "sq": (
        "Fotosinteza e kthen dritën e diellit në energji kimike.",
        "Askush nuk e dinte se ku kishte shkuar Ana.",
    ),
    "cy": (
        "Mae ffotosynthesis yn troi golau'r haul yn egni cemegol.",
        "Doedd neb yn gwybod ble roedd Ann wedi mynd.",
    ),
    "so": (
        "Qofna ma garanayn halka ay Caasho aadday.",
        "Dhirtu waxay iftiinka qorraxda u beddeshaa tamar.",
    ),
    "ru": (
        "Фотосинтез превращает солнечный свет в химическую энергию.",
        "Никто не знал, куда ушла Анна.",
    ),
    "uk": (
        "Фотосинтез перетворює сонячне світло на хімічну енергію.",
        "Ніхто не знав, куди пішла Анна.",
    ),
    "bg": (
        "Фотосинтезата превръща слънчевата светлина в химична енергия.",
        "Никой не знаеше къде е отишла Ана.",
    ),
    "mk": (
        "Фотосинтезата ја претвора сончевата светлина во хемиска енергија.",
        "Никој не знаеше каде отишла Ана.",
    ),
    "sr": (
        "Фотосинтеза претвара сунчеву светлост у хемијску енергију.",
        "Нико није знао куда је Ана отишла.",
    ),
    "be": (
        "Фотасінтэз ператварае сонечнае святло ў хімічную энергію.",
        "Ніхто не ведаў, куды пайшла Ганна.",
    ),
    "ar": (
        "يحول التمثيل الضوئي ضوء الشمس إلى طاقة كيميائية.",
        "لم يعرف أحد أين ذهبت آنا.",
    ),
    "fa": (
        "فتوسنتز نور خورشید را به انرژی شیمیایی تبدیل می‌کند.",
        "هیچ‌کس نمی‌دانست آنا کجا رفته است.",
    ),
    "ur": (
        "ضیائی تالیف سورج کی روشنی کو کیمیائی توانائی میں بدلتی ہے۔",
        "کسی کو معلوم نہیں تھا کہ آنا کہاں گئی۔",
    ),
    "hi": (
        "प्रकाश संश्लेषण सूर्य के प्रकाश को रासायनिक ऊर्जा में बदलता है।",
        "किसी को नहीं पता था कि आना कहाँ गई।",
    ),
    "mr": (
        "प्रकाशसंश्लेषण सूर्यप्रकाशाचे रासायनिक ऊर्जेत रूपांतर करते.",
        "अॅना कुठे गेली हे कोणालाच माहीत नव्हते.",
    ),
    "ne": (
        "प्रकाश संश्लेषणले सूर्यको प्रकाशलाई रासायनिक ऊर्जामा बदल्छ।",
        "आना कहाँ गइन् भन्ने कसैलाई थाहा थिएन।",
    ),
    "ja": (
        "光合成は太陽の光を化学エネルギーに変える。",
        "東京都立図書館",
    ),
    "zh": (
        "光合作用把阳光变成化学能。",
        "没有人知道安娜去了哪里。",
    ),
    "ko": (
        "광합성은 햇빛을 화학 에너지로 바꾼다.",
        "안나가 어디로 갔는지 아무도 몰랐다.",
    ),
}
